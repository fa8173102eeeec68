"""`python -m cogvx_exp.train` as a user runs it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cogvx_exp.media.video import probe_video
from cogvx_exp.runs.metrics import read_metrics
from cogvx_exp.runs.run_folder import RunFolder, read_job
from tests.entry import generate, train, with_twin

SHORT = ["steps=12", "lr_scheduler.warmup_steps=2", "checkpoint.every=6"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> RunFolder:
    """A short run of the main job in a process of its own; checks what is on the screen."""
    folder = tmp_path_factory.mktemp("run") / "main"
    settings = [f"run_dir={folder}", f"cache_dir={shared_cache}", *SHORT, "validation.num_inference_steps=2"]
    command = [sys.executable, "-m", "cogvx_exp.train", *with_twin(settings)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder.parent, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for line in ("8 clips (frames x height x width): 8 of 9x32x48", "Training 12/12  loss", "To sample from it:"):
        assert line in done.stdout
    assert not re.search("warning|deprecat|failed|unable", done.stdout, re.IGNORECASE), done.stdout
    return RunFolder(folder)


def test_the_run_folder_explains_itself(run: RunFolder) -> None:
    assert read_job(run.path).steps == 12
    assert (run.path / "command.txt").read_text().startswith("python -m cogvx_exp.train model=tiny-5b")
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["memory"]["before_training"]["process_peak_gib"] > 0
    metrics = read_metrics(run.metrics)
    assert [line["step"] for line in metrics] == list(range(1, 13))
    assert all(0 < line["loss"] < 10 and line["grad_norm"] > 0 for line in metrics)
    assert metrics[0]["lr"] == 0
    assert metrics[2]["lr"] == max(line["lr"] for line in metrics)
    assert (run.path / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("step", [0, 12])
def test_validation_videos_have_their_settings_beside_them(run: RunFolder, step: int) -> None:
    (video,) = run.validation(step).glob("*.mp4")
    info = probe_video(video)
    assert (info.num_frames, info.height, info.width, info.fps) == (9, 32, 48, 8)
    settings = json.loads(video.with_suffix(".json").read_text())
    assert settings["prompt"].startswith("TOYSHAPES a ")
    assert (settings["step"], settings["num_inference_steps"], settings["seed"]) == (step, 2, 42)


def test_a_finished_run_is_not_overwritten(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    before = run.metrics.read_bytes()
    assert train([f"run_dir={run.path}"]) == 2
    assert "resume=latest" in capsys.readouterr().err
    assert run.metrics.read_bytes() == before


def test_a_resumed_run_equals_an_uninterrupted_one(
    run: RunFolder, tmp_path: Path, shared_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Takes away what came after step 6 of 12, and resumes. Sampling videos must not change training."""
    copy = RunFolder(tmp_path / "copy")
    settings = [f"run_dir={copy.path}", f"cache_dir={shared_cache}", *SHORT, "validation=none"]
    assert train(settings) == 0
    last = copy.checkpoint(12)
    (last / "trainable.safetensors").write_bytes(b"damaged")
    copy.metrics.write_text(copy.metrics.read_text() + '{"step": 13, "lo')
    capsys.readouterr()
    assert train([*settings, "resume=latest", "checkpoint.keep=7"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"Skipped: checkpoint \S+/step-000012: trainable.safetensors is damaged", out)
    assert re.findall("Changed since the checkpoint: (.*)", out) == ["checkpoint.keep: 3 -> 7, from step 7"]
    assert "Resuming from step 6" in out
    resumed, whole = (load_file(folder.checkpoint(12) / "trainable.safetensors") for folder in (copy, run))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    resumed, whole = (load_file(folder.checkpoint(12) / "optimizer.safetensors") for folder in (copy, run))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    losses = [[line["loss"] for line in read_metrics(folder.metrics)] for folder in (copy, run)]
    assert losses[0] == losses[1]


def test_resume_refuses_another_model_and_names_what_differs(
    run: RunFolder, shared_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train([f"resume={run.path}", f"cache_dir={shared_cache}", "method.rank=3"]) == 2
    error = capsys.readouterr().err
    assert "method was" in error
    assert "'rank': 3" in error


def test_generate_samples_from_a_run(
    run: RunFolder, in_tmp: Path, shared_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = [f"cache_dir={shared_cache}", "generate.num_inference_steps=2", "generate.prompts='a red circle:::a b'"]
    for name, extra in {
        "base": [],
        "off": [f"generate.adapter={run.path}", "generate.strength=0"],
        "tuned": [f"generate.adapter={run.export}"],
        "twice": [f"generate.adapter={run.path}", "generate.strength=2"],
    }.items():
        assert generate([*shared, *extra, f"generate.output_dir={name}"]) == 0
    videos = {path.parent.name: path.read_bytes() for path in in_tmp.glob("*/00-a-red-circle.mp4")}
    assert videos["off"] == videos["base"]
    assert len(set(videos.values())) == 3
    assert len(list(in_tmp.glob("*/*.mp4"))) == 8
    settings = json.loads(Path("twice/01-a-b.json").read_text())
    assert (settings["prompt"], settings["strengths"]) == ("a b", [2])


def test_generate_refuses_what_does_not_fit(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate([f"generate.adapter={run.path}", "model=5b", "model.weights=random"]) == 2
    assert "trained on model=tiny-5b and does not fit model=5b" in capsys.readouterr().err
    assert generate(["generate.adapter=nowhere"]) == 2
    assert "give a run folder or an adapter file" in capsys.readouterr().err
    assert generate([f"generate.adapter={run.path}", "generate.height=33"]) == 2
    assert "nearest: 32 or 48" in capsys.readouterr().err


def test_missing_weights_are_one_clear_line(
    in_tmp: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    program = "import sys; from cogvx_exp.train import main; sys.exit(main(['model=5b', 'optim=adamw8bit']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    for words in ("THUDM/CogVideoX-5b", "model.path=FOLDER", "model.weights=random"):
        assert words in done.stderr
    assert list(in_tmp.iterdir()) == []
    assert train(["model.weights=pretrained", f"model.path={in_tmp}"]) == 2
    assert "no model_index.json" in capsys.readouterr().err
