"""--quiet prints only results, warnings and errors; COGVX_LOG also applies to processes that a command starts."""

import os
from pathlib import Path

import pytest

from cogvx_exp.report import main as report
from tests.entry import generate, memory, prepare, train

SHORT = ["steps=1", "validation=none", "data.workers=0", "lr_scheduler.warmup_steps=0"]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]):
    def lines() -> list[str]:
        out, err = capsys.readouterr()
        assert err == ""
        return out.splitlines()

    return lines


def test_only_results(in_tmp: Path, shared_cache: Path, said, capsys: pytest.CaptureFixture[str]) -> None:
    cache = f"cache_dir={shared_cache}"
    assert prepare([cache, "--quiet"]) == 0
    assert said() == [f"Encoded in {shared_cache}/encoded"]
    assert train(["--quiet", *SHORT, "steps=2", "lr_scheduler.warmup_steps=2", cache, "run_dir=run"]) == 0
    warning, line = said()
    assert warning.startswith("Note: lr_scheduler.warmup_steps=2 is not over")
    assert line.startswith("Done in ")
    assert line.endswith(" s: run")
    sampling = ["generate.num_inference_steps=1", "generate.prompts=[a,b]", "generate.adapter=run"]
    assert generate(["--quiet", *sampling, cache]) == 0
    first, second = said()
    assert [Path(line.strip()).suffix for line in (first, second)] == [".mp4"] * 2
    assert report(["--quiet", "run"]) == 0
    assert said() == ["run/report/index.html"]
    assert memory(["--quiet", "validation=none"]) == 0
    verdict, paths = said()
    assert verdict.startswith("Fits 24 GiB")
    assert paths.startswith("Picture: outputs/memory/")
    assert train(["--quiet", "steps=-1"]) == 2
    assert "steps=-1" in capsys.readouterr().err
    assert "COGVX_QUIET" not in os.environ
    assert train([*SHORT, "steps=2", cache, "run_dir=run", "resume=auto"]) == 0
    assert any(line.startswith("Training ") for line in said()), "the flag is of one command"


def test_jobs_of_a_sweep(in_tmp: Path, shared_cache: Path, said, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run in separate processes, with their output in files."""
    monkeypatch.setenv("COGVX_LOG", "info:cogvx_exp.training")
    assert train(["-m", "--quiet", "seed=1", *SHORT, f"cache_dir={shared_cache}"]) == 0
    (sweep,) = Path("outputs/multirun").iterdir()
    assert said() == [f"1 of 1 jobs have finished: {sweep}"]
    (line,) = (sweep / "0/output.log").read_text().splitlines()
    assert line.startswith("Done in ")
    logged = (sweep / "0/logs/node-0/stderr.log").read_text().splitlines()
    assert any(" INFO cogvx_exp.training.setup: strategy single" in line for line in logged)
    assert not any("cogvx_exp.latents" in line for line in logged)
