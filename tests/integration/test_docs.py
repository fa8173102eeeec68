"""The commands that a newcomer types, and the examples of docs/extending.md, run as the pages show them.

Only what takes long is made smaller: fewer clips, steps and denoising steps.
"""

import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from cogvx_exp.media.video import write_video
from cogvx_exp.report import main as report
from cogvx_exp.runs.metrics import read_metrics
from cogvx_exp.runs.run_folder import LORA_FILE, RunFolder, read_job
from tests import entry
from tests.doc_pages import ENTRY_POINTS, ROOT, Command, check_configuration, commands, write_shown_files

SHORT = ["steps=2", "batch_size=2", "lr_scheduler.warmup_steps=0", "data.workers=0", "data.decode_workers=1"]
ONE_VIDEO = ["validation.num_inference_steps=1", "validation.num_prompts=1"]
SMALLER = {"train": [*SHORT, *ONE_VIDEO, "data.clips=4"], "generate": ["generate.num_inference_steps=1"]}


def newest_run() -> Path:
    return max(Path("outputs").glob("*/config.yaml"), key=lambda path: path.stat().st_mtime_ns).parent


def with_places(words: list[str]) -> list[str]:
    """The words of a command, with folders that are there."""
    runs = [word for word in words if "outputs/RUN" in word or "outputs/multirun/TIME" in word]
    places = {"outputs/RUN": str(newest_run()), "outputs/multirun/TIME": "outputs"} if runs else {}
    for placeholder, place in places.items():
        words = [word.replace(placeholder, place) for word in words]
    return words


def replaced(words: list[str], by: list[str]) -> list[str]:
    """The words with other values for some settings."""
    names = {text.partition("=")[0] for text in by}
    return [*(word for word in words if word.partition("=")[0] not in names), *by]


def is_for_the_tiny_model(command: Command, folder: Path) -> bool:
    if command.program == "cogvx_exp.report":
        return True
    if command.entry not in SMALLER or "-m" in command.arguments:
        return False
    return check_configuration(command, folder).model.weights == "bundled"  # type: ignore[attr-defined]


def test_the_tour_of_the_tiny_model(in_tmp: Path, shared_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All commands of Getting started that need neither a GPU nor a download, in their order; some are the README's."""
    page = commands(ROOT / "docs" / "getting-started.md")
    tour = [command for command in page if is_for_the_tiny_model(command, in_tmp)]
    assert {command.words for command in commands(ROOT / "README.md")} >= {command.words for command in tour[:2]}
    for command in tour:
        words = with_places(command.arguments)
        if command.program == "cogvx_exp.report":
            code = report(words)
        else:
            smaller = SMALLER[command.entry]
            if "resume=latest" in words:
                smaller = [*smaller, "steps=3"]
            code = ENTRY_POINTS[command.entry](replaced(words, [*smaller, f"cache_dir={shared_cache}"]))
        assert code == 0, f"{command}\n{capsys.readouterr().err}"
    assert "Resuming from step 2" in capsys.readouterr().out
    assert list(Path("outputs/generated").glob("*.mp4"))
    assert {path.name for path in RunFolder(newest_run()).checkpoints.iterdir()} >= {"step-000002", "step-000003"}


def test_the_examples_of_extending(
    in_tmp: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = ROOT / "docs" / "extending.md"
    write_shown_files(page, in_tmp)
    footage = in_tmp / "footage"
    footage.mkdir()
    for number, name in enumerate(("one-red", "two-blue", "three-green")):
        frames = np.random.default_rng(number).integers(0, 256, (9, 32, 48, 3), dtype=np.uint8)
        write_video(footage / f"{name}.mp4", frames, fps=8)
    examined = dict(EXAMINED)
    for command in commands(page):
        monkeypatch.setattr(sys, "path", [*(str(in_tmp) for _ in command.environment), *sys.path])
        arguments = with_places(command.arguments)
        if command.entry:
            sampled = {"data=footage", "data=scenes", "validation=scored"} & set(arguments)
            videos = [*ONE_VIDEO, "validation.baseline=false"] if sampled else ["validation=none"]
            small = SMALLER["generate"] if command.entry == "generate" else [*SHORT, *videos]
            small = [*small, f"cache_dir={shared_cache}"]
            code = getattr(entry, command.entry)(replaced(arguments, [] if "--cfg" in arguments else small))
            assert code == 0, f"{command}\n{capsys.readouterr().err}"
        else:
            assert command.words[0] == "python"
            monkeypatch.setattr(sys, "argv", arguments)
            runpy.run_path(command.words[1], run_name="__main__")
        for setting in set(arguments) & examined.keys():
            examined.pop(setting)(newest_run())
    assert not examined, "an example was left out"
    out = capsys.readouterr().out
    assert {"  name: my-5b", "  path: /models/my-cogvideox-5b"} <= set(out.splitlines())
    assert re.search(r"\.mp4\n    .*change \d", out), "the score of a generated video"


def _is_style(run: Path) -> None:
    job = read_job(run)
    assert (job.method.rank, job.method.alpha, job.optim.lr) == (32, 16, 5e-4)


def _is_lion(run: Path) -> None:
    optim = read_job(run).optim
    assert (optim.target, optim.lr, optim.weight_decay) == ("pytorch_optimizer.Lion", 3e-5, 0.1)


def _is_sign_sgd(run: Path) -> None:
    with safe_open(RunFolder(run).checkpoint(2) / "optimizer.safetensors", framework="pt") as file:
        assert any(name.endswith("average") for name in file.keys())  # noqa: SIM118, it is no mapping


def _layers(run: Path) -> set[str]:
    with safe_open(run / "export" / LORA_FILE, framework="pt") as file:
        return {name.partition(".lora_")[0] for name in file.keys()}  # noqa: SIM118


def _is_lora_values(run: Path) -> None:
    assert {name.split("attn1.")[1] for name in _layers(run)} == {"to_v", "to_out.0"}


def _has_three_blocks(run: Path) -> None:
    assert {name.split(".")[2] for name in _layers(run)} == {"0", "1", "2"}


def _is_footage(run: Path) -> None:
    assert "2 of 9x32x48; 1 held out" in json.loads((run / "summary.json").read_text())["clips"]
    (settings, *_) = (run / "validation" / "step-000002").glob("*.json")
    assert json.loads(settings.read_text())["prompt"].startswith("FOOTAGE a ")


def _is_scenes(run: Path) -> None:
    videos = [json.loads(path.read_text()) for path in (run / "validation" / "step-000002").glob("*.json")]
    assert [video["prompt"] for video in videos] == ["one red"]


def _is_scored(run: Path) -> None:
    (line,) = read_metrics(RunFolder(run).scores)
    (video,) = (run / "validation" / "step-000002").glob("*.json")
    scores = {name: value for name, value in line.items() if name != "step"}
    assert {"change", "slow_change", "colour", "sharpness"} <= scores.keys()
    assert scores["change"] != scores["slow_change"], "kwargs are passed"
    assert 0 <= scores["colour"] <= 1
    assert json.loads(video.read_text())["scores"] == scores


def _is_csv(run: Path) -> None:
    lines = (run / "losses.csv").read_text().splitlines()
    losses = [f"{line['step']},loss,{line['loss']}" for line in read_metrics(RunFolder(run).metrics)]
    assert set(losses) <= set(lines)


def _is_min_snr(run: Path) -> None:
    assert read_job(run).objective.weighting == "my_objectives.min_snr"


def _is_float32(run: Path) -> None:
    assert read_job(run).attention.forward == "my_attention.float32_attention"


def _is_last_frame(run: Path) -> None:
    assert read_job(run).task.target == "my_tasks.LastFrameToVideo"
    assert all(line["loss"] > 0 for line in read_metrics(RunFolder(run).metrics))


EXAMINED: dict[str, Callable[[Path], None]] = {
    "experiment=style_lora": _is_style,
    "optim=lion": _is_lion,
    "optim=sign_sgd": _is_sign_sgd,
    "method=lora_values": _is_lora_values,
    "model=my-tiny": _has_three_blocks,
    "data=footage": _is_footage,
    "data=scenes": _is_scenes,
    "validation=scored": _is_scored,
    "tracker=csv": _is_csv,
    "objective=min_snr": _is_min_snr,
    "task=last_frame": _is_last_frame,
    "attention=float32": _is_float32,
}
"""What a setting of the page must have done to the run, by the setting."""
