"""Scores in a run: where they go, and what is compared by them."""

import os
from pathlib import Path

import pytest

from cogvx_exp.core.files import read_json
from cogvx_exp.media.video import open_video
from cogvx_exp.reporting.page import report_data
from cogvx_exp.reporting.runs import find_runs
from cogvx_exp.runs.metrics import read_metrics
from cogvx_exp.runs.run_folder import RunFolder
from tests.entry import generate, train

SHORT = ["batch_size=2", "lr_scheduler=constant", "optim.lr=0.1", "data.workers=0", "validation.num_inference_steps=1"]
BY_DEFAULT = {"sharpness", "motion", "static", "flicker", "colour_drift", "likeness", "copying"}


def test_the_best_checkpoint_by_a_score(in_tmp: Path, shared_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Saved at every validation, kept beside the newest, linked, sampled from, and chosen again after a branch."""
    settings = [*SHORT, f"cache_dir={shared_cache}", "checkpoint.every=4", "checkpoint.keep=1", "validation.every=1"]
    settings += ["checkpoint.keep_best=score.sharpness", "validation.scores.sharpness.better=higher", "run_dir=run"]
    assert train([*settings, "steps=5"]) == 0
    run = RunFolder(Path("run"))
    lines = {line["step"]: line for line in read_metrics(run.scores)}
    assert set(lines) == set(range(6)), "with the baseline"
    assert all(line.keys() - {"step"} == BY_DEFAULT for line in lines.values())
    best = max(range(1, 6), key=lambda step: lines[step]["sharpness"])
    assert os.readlink(run.checkpoints / "best") == f"step-{best:06d}"
    kept = {path.name for path in run.checkpoints.iterdir()}
    assert kept == {"best", f"step-{best:06d}", "step-000005"}
    summary = read_json(run.path / "summary.json")
    assert summary["best_checkpoint"] == {"step": best, "by": "score.sharpness", "value": lines[best]["sharpness"]}
    assert summary["scores"] == {name: lines[5][name] for name in BY_DEFAULT}

    (one,) = find_runs([run.path])
    data = report_data([one], [], Path("report"))
    assert data["better"]["score_sharpness"] == "higher"
    assert data["better"]["score_flicker"] == "lower"
    assert "score_motion" not in data["better"]
    assert data["runs"][0]["curves"]["score_motion"][0] == list(range(6))

    asked = ["generate.prompts=[a red circle]", "generate.num_inference_steps=1", f"cache_dir={shared_cache}"]
    capsys.readouterr()
    assert generate([f"generate.adapter={run.checkpoints}/best", *asked]) == 0
    assert "\n    sharpness " in capsys.readouterr().out
    (video,) = Path("outputs/generated").glob("*.mp4")
    about = read_json(video.with_suffix(".json"))
    assert about["adapters"][0]["file"].endswith(f"step-{best:06d}/trainable.safetensors"), "not the link"
    assert about["scores"][0].keys() == BY_DEFAULT - {"likeness", "copying"}
    assert len(open_video(str(video)).starts) == 9
    assert generate([f"generate.adapter={run.checkpoints}/best", *asked, "generate.scores.copying=true"]) == 2
    assert "generate.scores.copying needs the training clips" in capsys.readouterr().err

    # The run goes on from the best one, compared by the loss, of which there is none.
    assert train([*settings, f"resume={run.checkpoints}/best", "steps=6", "checkpoint.keep_best=true"]) == 0
    assert not (run.checkpoints / "best").exists()
    assert [line["step"] for line in read_metrics(run.scores)] == list(range(7))
