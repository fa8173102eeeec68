"""What users type and name is shown and read as it is."""

import importlib
import io
import logging
import shlex
import tomllib
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from rich.table import Table

from cogvx_exp.config.command_line.quoting import argument
from cogvx_exp.config.rules.prompts import read_prompts
from cogvx_exp.console.quiet import quiet_libraries
from cogvx_exp.console.terminal import PlainConsole
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import fingerprint, read_json, write_json
from cogvx_exp.sweep.labels import labels
from cogvx_exp.train import main

ODD = [
    "a man, walking",
    "x = y",
    "~ tilde",
    "[INST] a",
    "M\xe4dchen",
    'it\'s "so"',
    "${seed} and \\${x}",
    "a\\",
    "(red) {b}",
    "#1 & <b> `c`",
]


@pytest.mark.parametrize("text", ODD)
def test_a_hint_gives_the_text_when_it_is_pasted(text: str) -> None:
    (word,) = shlex.split(argument("validation.prompts", text))
    override = OverridesParser.create().parse_override(word)
    config = OmegaConf.create({"seed": 1, "text": override.value()})
    assert config.text == text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["run_dir="], "run_dir=  is empty; perhaps a shell variable"),
        (["cache_dir="], "cache_dir=  is empty"),
        (["data=files", "data.root="], "data.root=  is empty"),
        (["resume="], "resume=  is empty"),
        (["data=files", "data.root=~nobody-x/y"], "there is no user nobody-x"),
        (["data.holdout=videos/b0.mp4"], "must be a count, a fraction below 1, or a list of paths"),
        (["device=mps"], "must be auto, cpu, cuda or cuda:N"),
        (["optim.lr=true"], "must be a number of 0 or more, not true or false"),
        (["compile=maybe"], "must be true or false"),
        (["data.height_buckets=480"], "must be a list of whole numbers above 0"),
        (["validation.name=foo"], "validation.name=foo  must be default or none"),
        (["validation.prompts=missing.txt"], "does not exist"),
        (["validation.prompts=[]"], "has no prompts"),
        (["validation.prompts="], "has no prompts"),
        (["validation.prompts=a man, walking"], "write 'validation.prompts=\"a man, walking\"'"),
        (["validation.prompts=a [red] car"], "write 'validation.prompts=\"a [red] car\"'"),
        (["validation.prompts=a", "man,", "walking"], "write 'validation.prompts=\"a man, walking\"'"),
    ],
)
def test_a_setting_is_answered_in_plain_words(capsys: pytest.CaptureFixture[str], given: list[str], words: str) -> None:
    assert main(given) == 2
    output = capsys.readouterr().err
    assert words in output
    assert "constrained" not in output


def test_a_prompts_file_is_read_or_named(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("caf\xe9".encode("utf-8-sig") + b"\r\n\r\ntwo\r\n")
    assert read_prompts(str(file), ":::", "generate.prompts") == ["caf\xe9", "two"]
    file.write_bytes("caf\xe9".encode("cp1252"))
    with pytest.raises(UserError, match="iconv -f WINDOWS-1252"):
        read_prompts(str(file), ":::", "generate.prompts")
    file.write_bytes(b"\n")
    with pytest.raises(UserError, match="has no prompts"):
        read_prompts(str(file), ":::", "generate.prompts")
    assert read_prompts("a man: he/she walks:::b", ":::", "generate.prompts") == ["a man: he/she walks", "b"]


def test_text_on_the_terminal_is_never_markup() -> None:
    out = io.StringIO()
    console = PlainConsole(file=out, width=80)
    table = Table("a")
    table.add_row("[/] [bold]x[/bold] :smile:")
    console.print("a [red] car [/] :smile: \x1b[31m caf\udce9")
    console.print(table)
    assert "a [red] car [/] :smile: \\x1b[31m caf\\xe9" in out.getvalue()
    assert "[/] [bold]x[/bold] :smile:" in out.getvalue()


def test_long_values_of_a_sweep_stay_apart() -> None:
    common = "data.root=/mnt/" + "very-long/" * 20
    shown = labels([[f"{common}{name}/clips", "seed=1"] for name in ("first", "second")])
    assert len(set(shown)) == 2
    assert all(len(text) < 60 for text in shown)


def test_deepspeed_says_nothing_when_it_sets_its_own_level(capsys: pytest.CaptureFixture[str]) -> None:
    quiet_libraries()
    logger = logging.getLogger("DeepSpeed")
    logger.setLevel(logging.WARNING)
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    logger.addHandler(handler)
    logger.warning("Setting accelerator to CPU")
    logger.removeHandler(handler)
    assert out.getvalue() == ""


def test_every_entry_point_has_a_console_script() -> None:
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    for name in ("train", "prepare", "generate", "memory", "report"):
        assert project["scripts"][f"cogvx-{name}"] == f"cogvx_exp.{name}:main"
        assert callable(importlib.import_module(f"cogvx_exp.{name}").main)


def test_json_keeps_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "caf\udce9"})
    assert read_json(tmp_path / "a.json") == {"name": "caf\udce9"}
    assert fingerprint("caf\udce9") != fingerprint("caf\udcea")
