"""The results of `python -m benchmarks.gpu`, the pages made of them, and the table of measurements."""

import sys
from pathlib import Path

import pytest

from benchmarks.gpu.blocks import key_of
from benchmarks.gpu.docs import CHECKPOINTED, RATIOS, with_measured_cells, write_docs
from benchmarks.gpu.results import FAILED, MEASURED, NO_MEMORY, UNFINISHED, Results
from benchmarks.gpu.runner import Session, measure
from benchmarks.gpu.table import MINUTES, all_measurements, settings_key, simulated
from benchmarks.targets import TARGETS

ROW = "model=5b method=lora"
MEMORY = {"before_training": {"allocated": 10.0}, "training": {"allocated": 14.126}, "validation": {"allocated": 16.5}}
PAGE = """\
| settings | without: predicted | without: measured | with: measured |
| --- | --- | --- | --- |
| `method=lora model=5b` | 1 |  |  |
| `model=2b` | 2 | 9.99 | 9.99 |

| other | table |
| --- | --- |
| `model=5b method=lora` | stays |
"""
SPEED_PAGE = """\
| setting | predicted | GPU |
|---|---|---|
| `memory.activations=keep` | 0.7 | |
| `memory.ff_chunks=4` | 1.04 | |
"""


def phases(**peaks: float) -> dict[str, dict[str, float]]:
    return {name: dict.fromkeys(("allocated", "reserved", "process", "pinned"), peak) for name, peak in peaks.items()}


def test_a_result_that_was_cut_off_is_none_and_the_next_one_is_whole(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.add({"key": "a", "status": MEASURED})
    with results.file.open("a") as file:
        file.write('{"key": "b", "status": "meas')
    results.add({"key": "c", "status": FAILED})
    results.add({"key": "d", "status": UNFINISHED})
    assert results.done() == {"a", "c"}
    results.add({"key": "d", "status": MEASURED})
    assert results.done() == {"a", "c", "d"}


def test_measured_cells_are_filled_and_all_others_stay() -> None:
    key = settings_key(ROW)
    filled = with_measured_cells(PAGE, {key: {"status": MEASURED, "memory": MEMORY}})
    assert "| `method=lora model=5b` | 1 | 14.13 | 16.50 |" in filled
    assert "| `model=2b` | 2 |  |  |" in filled
    assert filled.endswith(PAGE[PAGE.index("\n| other") :])
    lost = {"status": NO_MEMORY, "memory": {"before_training": {"allocated": 10.0}}}
    assert "| 1 | OOM | OOM |" in with_measured_cells(PAGE, {key: lost})
    without = {"status": MEASURED, "memory": {name: MEMORY[name] for name in ("before_training", "training")}}
    assert "| 1 | 14.13 |  |" in with_measured_cells(PAGE, {key: without})


def test_pages_say_what_was_measured_where_and_nothing_of_dry_runs(tmp_path: Path) -> None:
    (tmp_path / "memory.md").write_text(PAGE)
    (tmp_path / "speed.md").write_text(SPEED_PAGE)
    results, row = Results(tmp_path), all_measurements()[0]
    packages = {"torch": "2.11.0"}
    machine = {"device": "GPU X", "gpus": 1, "gpu_gib": 80, "driver": "580", "cuda": "13.0", "python": "3.12"}
    machine |= {"cores": 16, "host_gib": 128, "packages": packages}
    about = {"key": row.key, "piece": row.piece, "machine": machine, "revision": "abc"}
    results.add({**about, "status": MEASURED, "step_seconds": 1.234, "mfu": 0.41, "memory": phases(training=5.5)})
    failed = "tests/integration/test_gpu.py::test_x[a|b]"
    results.add({"key": failed, "piece": "tests", "status": "failed", "error": "AssertionError: a | b"})
    results.add({"key": "other", "piece": "tests", "status": "passed"})
    for number, settings in enumerate((CHECKPOINTED, RATIOS["memory.activations=keep"]), 1):
        times = {"step_ms": 80.0 / number, "forward_ms": 9.0, "tflops": 100.0, "allocated": 3.0}
        results.add({"key": key_of(settings), "piece": "blocks", "status": MEASURED, **times})
    write_docs(results, tmp_path)
    assert (tmp_path / "speed.md").read_text() == SPEED_PAGE.replace("| 0.7 | |", "| 0.7 | 0.50 |")
    page = (tmp_path / "measured.md").read_text()
    assert f"| `{row.settings}` | 1.23 | 41.0 % | 5.50 |" in page
    assert "1 x GPU X, 80 GiB, driver 580, CUDA 13.0; 16 cores" in page
    assert "torch 2.11.0; revision abc" in page
    assert "1 passed, 1 failed, 0 skipped" in page
    assert "AssertionError: a / b" in page
    dry = Results(tmp_path / "dry")
    dry.add({**about, "simulated": True, "status": MEASURED, "step_seconds": 1.234})
    write_docs(dry, tmp_path)
    assert "Nothing has been measured yet." in (tmp_path / "measured.md").read_text()


def test_a_process_that_does_not_end_in_time_is_ended_and_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper = tmp_path / "python"
    sleeper.write_text("#!/bin/sh\nsleep 60\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(sleeper))
    session = Session(Results(tmp_path), tmp_path / "cache", minutes=0.01, revision=None, simulate=True)
    result = measure(session, all_measurements()[0])
    assert result["status"] == UNFINISHED
    assert result["seconds"] < 30
    sleeper.write_text("#!/bin/sh\necho a word\nkill -9 $$\n")
    result = measure(session, all_measurements()[0])
    assert result["status"] == FAILED
    assert "SIGKILL; the host may have had no memory left" in result["error"]
    assert "a word" in result["log"]


def test_every_target_is_measured_once() -> None:
    rows = all_measurements()
    keys = [row.key for row in rows]
    assert len(keys) == len(set(keys))
    assert {settings_key(settings) for settings, _, _ in TARGETS} <= {row.key for row in rows if row.validation}
    assert {row.model for row in rows} == MINUTES.keys()
    assert all(row.minutes < 9 for row in rows)
    assert simulated("model=1.5-5b-i2v task=i2v").startswith("model=tiny-1.5-i2v model.native_dtype=bfloat16 ")
