"""COGVX_LOG: logs what is selected, nothing else, and no secrets."""

import logging
import re

import pytest

from cogvx_exp.console.log import configured_logging
from cogvx_exp.report import main as report
from cogvx_exp.train import main as train

OURS, LAUNCH, LIBRARY = (logging.getLogger(name) for name in ("cogvx_exp.data.dataset", "cogvx_exp.launch.x", "peft.x"))


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The output for some log lines with a value of COGVX_LOG."""

    def lines(value: str) -> list[str]:
        monkeypatch.setenv("COGVX_LOG", value)
        with (
            configured_logging(),
            configured_logging(),
        ):  # nested: a command, and a sweep's job in the same process
            for logger in (OURS, LAUNCH, LIBRARY):
                for level in ("debug", "info", "warning"):
                    getattr(logger, level)("%s %s", logger.name.split(".")[1], level)
        OURS.warning("not within")
        out, err = capsys.readouterr()
        assert out == ""
        return [line.partition(": ")[2] for line in err.splitlines()]

    return lines


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("debug", "data debug, data info, data warning, launch debug, launch info, launch warning, x info, x warning"),
        ("INFO", "data info, data warning, launch info, launch warning, x warning"),
        ("warning", "data warning, launch warning, x warning"),
        ("debug:cogvx_exp.launch", "data warning, launch debug, launch info, launch warning, x warning"),
        ("debug:peft", "data warning, launch warning, x debug, x info, x warning"),
    ],
)
def test_levels_and_loggers(value: str, written: str, logged) -> None:
    before = [logging.getLogger(name).level for name in ("", "cogvx_exp", "cogvx_exp.launch", "peft")]
    assert logged(value) == written.split(", ")
    assert [logging.getLogger(name).level for name in ("", "cogvx_exp", "cogvx_exp.launch", "peft")] == before


def test_a_line_has_time_rank_and_logger_but_no_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COGVX_LOG", "info")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    monkeypatch.setenv("WANDB_API_KEY", "hf_planted_longer")
    with configured_logging():
        OURS.info("with hf_planted_longer, hf_planted from https://me:pass@example.org/x\x1b[2J")
    (line,) = capsys.readouterr().err.splitlines()
    expected = r"\d\d:\d\d:\d\d\.\d{3} rank 3 INFO cogvx_exp\.data\.dataset: "
    assert re.match(expected, line)
    assert line.endswith(r": with ***, *** from https://***@example.org/x\x1b[2J")


@pytest.mark.parametrize("value", ["loud", "debug:", "debug:cogvx_exp.lunch", "info:no_such_library", "1", "debug:a b"])
def test_another_value_is_refused(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COGVX_LOG", value)
    for main, arguments in ((train, ["--cfg", "job"]), (report, ["nowhere"])):
        assert main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"COGVX_LOG={value}: must be debug, info or warning" in line
