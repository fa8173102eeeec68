"""Reads prompts from a setting. Does not need torch, so a missing file is reported before anything starts."""

import os
import re
from pathlib import Path

from cogvx_exp.config.command_line.quoting import argument
from cogvx_exp.config.issues import ConfigError, Issue
from cogvx_exp.config.schema.training import SamplingSettings
from cogvx_exp.core.text import NotUtf8, read_text

TEXT_FILE = ".txt"
FILE_ENDINGS = (TEXT_FILE, ".csv", ".tsv", ".json", ".jsonl", ".yaml", ".yml", ".md")
# Not str.splitlines, which also splits at characters that prompts may contain, such as U+2028.
LINE_END = re.compile(r"\r\n|\n|\r")


def read_prompts(given: str | list[str], separator: str, setting: str) -> list[str]:
    """Prompts from a list, from one text with separators, or from the lines of a .txt file.

    Raises:
        ConfigError: there is no prompt, or a prompt file cannot be read.
    """
    # A file that does not exist would otherwise be sampled as a prompt of that name.
    if isinstance(given, str) and separator not in given and looks_like_a_file(given):
        prompts = _lines(given, setting)
    else:
        prompts = given.split(separator) if isinstance(given, str) else given
        for text in prompts:
            if text.strip().lower().endswith(FILE_ENDINGS) and not re.search(r"\s", text.strip()):
                problem = f"a list contains prompts, not files; for the file, write {argument(setting, text.strip())}"
                raise ConfigError([Issue(f"{setting}={text.strip()}", problem)])
    prompts = [text.strip() for text in prompts if text.strip()]
    if not prompts:
        shown = given if isinstance(given, str) else "[]"
        training = setting.startswith("validation.")
        instead = "; null uses captions, and validation=none samples nothing" if training else ""
        raise ConfigError([Issue(f"{setting}={shown}", f"has no prompts{instead}")])
    return prompts


def prompt_issues(section: str, settings: SamplingSettings, prompts: str | list[str] | None) -> list[Issue]:
    """Errors in the prompts and the negative prompt of a section; null prompts are valid."""
    issues = []
    if looks_like_a_file(settings.negative_prompt):
        problem = "must be the text itself, not a file"
        issues.append(Issue(f"{section}.negative_prompt={settings.negative_prompt}", problem))
    try:
        if prompts is not None:
            read_prompts(prompts, settings.separator, f"{section}.prompts")
    except ConfigError as error:
        issues += error.issues
    return issues


def looks_like_a_file(text: str) -> bool:
    """Whether a text ends like a file name, or is a path: ASCII with a slash and no spaces."""
    text = text.strip()
    is_path = "/" in text and text.isascii() and not re.search(r"\s", text)
    return text.lower().endswith(FILE_ENDINGS) or is_path


def _lines(given: str, setting: str) -> list[str]:
    file = Path(os.path.expanduser(given.strip()))
    prompt = f"for a prompt, write {argument(setting, [given])}"
    if not file.exists():
        problem = f"does not exist; give a .txt file with one prompt per line; {prompt}"
    elif file.is_dir():
        problem = f"is a folder; give a .txt file with one prompt per line; {prompt}"
    elif file.suffix.lower() != TEXT_FILE:
        problem = f"is not a .txt file; give one with one prompt per line; {prompt}"
    else:
        try:
            return LINE_END.split(read_text(file))
        except NotUtf8 as error:
            problem = str(error)
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
    raise ConfigError([Issue(f"{setting}={given}", problem)])
