"""The pages of the documentation: their commands, the files that they show, their links."""

import copy
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from cogvx_exp import generate, memory, prepare, train
from cogvx_exp.config.command_line.entry_point import EntryPoint
from cogvx_exp.config.command_line.quoting import quoted, readable
from cogvx_exp.config.paths import conf_dir
from cogvx_exp.config.rules.jobs import check_generate
from cogvx_exp.config.schema import GenerateJob, Section

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("multirun_examples/*.md")])
ENTRY_POINTS: dict[str, EntryPoint] = {
    "train": train.main,
    "prepare": prepare.main,
    "generate": generate.main,
    "memory": memory.main,
}
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:python|make|cogvx-\w+|torchrun|sbatch|pip) [^`]+)`")
FILE_NAME = re.compile(r"(?:# @.*\n)?# ([\w./-]+\.(?:py|yaml))\n")


@dataclass(frozen=True)
class Command:
    """A command line of a page."""

    page: Path
    words: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict, hash=False)
    output: str = ""
    """What the page shows below it."""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {shlex.join(self.words)}"

    @property
    def program(self) -> str:
        """The module that it runs, such as cogvx_exp.train, or the program's name."""
        words = self.words
        if words[0].startswith("cogvx-"):
            return words[0].replace("cogvx-", "cogvx_exp.")
        if words[0] in ("python", "torchrun") and "-m" in words:
            return words[words.index("-m") + 1]
        return words[0]

    @property
    def entry(self) -> str:
        """Name of the entry point with a Hydra configuration, or nothing."""
        name = self.program.removeprefix("cogvx_exp.")
        return name if self.program != name and name in ENTRY_POINTS else ""

    @property
    def arguments(self) -> list[str]:
        """What follows the program."""
        first = self.words.index(self.program) + 1 if self.program in self.words else 1
        return list(self.words[first:])

    @property
    def overrides(self) -> list[str]:
        """The settings among the arguments."""
        return [word for word in self.arguments if "=" in word and not word.startswith("-")]

    @property
    def config_dir(self) -> str:
        """The folder of configurations that it names, or nothing."""
        words = self.arguments
        return words[words.index("--config-dir") + 1] if "--config-dir" in words else ""


def commands(page: Path) -> list[Command]:
    """The command lines of a page, in its blocks of shell and in its text."""
    text = page.read_text(encoding="utf-8")
    found = []
    for language, block in FENCE.findall(text):
        if language == "bash":
            lines = re.sub(r"\\\n\s*", "", block).splitlines()
            found += [_command(page, line) for line in lines if line.strip() and not line.startswith("#")]
        elif language == "console":
            line, _, output = block.partition("\n")
            found.append(_command(page, line.removeprefix("$ "), output))
    return found + [_command(page, line) for line in INLINE.findall(FENCE.sub("", text))]


def _command(page: Path, line: str, output: str = "") -> Command:
    words = shlex.split(line, comments=True)
    environment = {}
    while "=" in words[0]:
        name, _, environment[name] = words.pop(0).partition("=")
    return Command(page, tuple(words), environment, output)


def shown_files(page: Path) -> dict[str, str]:
    """The files that a page shows: blocks of Python and YAML that begin with their name, as a comment."""
    blocks = (
        block for language, block in FENCE.findall(page.read_text(encoding="utf-8")) if language in ("python", "yaml")
    )
    return {name[1]: block for block in blocks if (name := FILE_NAME.match(block))}


def write_shown_files(page: Path, folder: Path) -> None:
    """Writes the files that a page shows into a folder."""
    for name, text in shown_files(page).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def check_configuration(command: Command, folder: Path) -> Section:
    """Composes, types and checks the configuration of a command, as its program does before it starts.

    Of a sweep, as many jobs as it takes to use every value once.

    Args:
        command: of an entry point.
        folder: has the page's own files.

    Returns:
        The (first) job.
    """
    main = ENTRY_POINTS[command.entry]
    extra = []
    if command.config_dir:
        place = next(path for path in (ROOT / command.config_dir, folder / command.config_dir) if path.is_dir())
        extra = [f"hydra.searchpath=[{quoted(f'file://{place}')}]"]
    config = main.config or main.name
    jobs = [main.job(_composed(config, extra, job)) for job in _jobs(command.overrides, main.schema)]
    for job in jobs:
        if isinstance(job, GenerateJob):
            assert not check_generate(job)
    return jobs[0]


def _composed(config: str, extra: Sequence[str], overrides: Sequence[str]) -> DictConfig:
    """As Hydra composes it; many commands choose the same groups, which are composed once."""
    choices = [text for text in overrides if "." not in text.partition("=")[0] and _is_group(text)]
    settings = [text for text in overrides if text not in choices and not text.startswith("hydra.")]
    composed = copy.deepcopy(_of_groups(config, (*extra, *choices)))
    ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(settings), composed)
    return composed


@cache
def _of_groups(config: str, overrides: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(config, list(overrides))


def _is_group(override: str) -> bool:
    name = override.lstrip("+").partition("=")[0]
    return (name == "sweep" and override.startswith("+")) or (conf_dir() / name).is_dir()


def _jobs(overrides: Sequence[str], schema: type[Section]) -> Iterator[list[str]]:
    parsed = OverridesParser.create().parse_overrides([readable(text, schema) for text in overrides])
    values = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [str(override.input_line)]
        for override in parsed
    ]
    for number in range(max((len(some) for some in values), default=1)):
        yield [some[number % len(some)] for some in values]
