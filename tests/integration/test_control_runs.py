"""Runs with condition videos: what is trained, resumed, exported and sampled."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cogvx_exp.data.control.recipes import recipe_of
from cogvx_exp.evaluation.sampling import Sampler, VideoRequest, control_of
from cogvx_exp.latents.captions import load_embeds, prepare_captions
from cogvx_exp.latents.context import PipelineContext
from cogvx_exp.media.video import open_video
from cogvx_exp.model.device import choose_compute
from cogvx_exp.model.load import load_scheduler, load_trained, load_transformer, load_vae, pipeline_folder
from cogvx_exp.runs.metrics import read_metrics
from cogvx_exp.runs.run_folder import LORA_FILE, PATCH_FILE, RunFolder, read_job
from cogvx_exp.tasks.base import build_task
from tests.conftest import extended
from tests.control_data import boxes, write_dataset
from tests.entry import generate, prepare, with_twin
from tests.entry import train as main
from tests.integration.test_matrix import SHORT

WEIGHT = "patch_embed.proj.weight"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("control"))


@pytest.fixture(scope="module")
def train_to(root: Path, shared_cache: Path):
    def run(path: Path, *settings: str) -> RunFolder:
        assert main([f"run_dir={path}", *settings_of(root, shared_cache, *settings)]) == 0
        return RunFolder(path)

    return run


@pytest.fixture
def train(train_to, tmp_path: Path):
    return lambda name, *settings: train_to(tmp_path / name, *settings)


@pytest.fixture(scope="module")
def trained(train_to, root: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with computed conditions, its export as an adapter and whole, and its folder for the Hub."""
    settings = ["data.control=gray", "optim.lr=1e-2", "export.merge=true", "hub.dry_run=true"]
    settings.append(f"validation.controls={root}/videos/2.mp4")
    return train_to(tmp_path_factory.mktemp("trained") / "run", *settings)


def settings_of(root: Path, cache: Path, *settings: str) -> list[str]:
    short = [text for text in SHORT if "validation=none" not in settings or not text.startswith("validation.")]
    return [f"cache_dir={cache}", "task=control", "data=files", f"data.root={root}", *short, *settings]


KILLED = """
import os, signal, sys, time, torch
from pathlib import Path
from cogvx_exp.train import main
checkpoint, step, calls = Path(sys.argv[1]), torch.optim.AdamW.step, []

def killed(*given, **named):
    calls.append(1)
    if len(calls) == 4:
        while not checkpoint.is_dir():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*given, **named)

torch.optim.AdamW.step = killed
main(sys.argv[2:])
"""


@pytest.mark.parametrize("method", ["lora", extended("dora"), extended("sft")])
def test_a_killed_run_ends_as_one_that_was_not(method: str, train, root: Path, shared_cache: Path, tmp_path) -> None:
    """With conditions and a widened patch embedding, which is trained, saved and exported."""
    settings = [f"method={method}", "validation=none", "data.holdout=1", "ema_decay=0.9", "optim.lr=1e-2"]
    run = train("run", *settings)
    weights = load_file(run.checkpoint(4) / "trainable.safetensors")
    channels = weights[WEIGHT].shape[1] // 2
    assert weights[WEIGHT][:, channels:].abs().max() > 1e-3
    exported = run.export / ("transformer/diffusion_pytorch_model.safetensors" if method == "sft" else PATCH_FILE)
    assert load_file(exported)[WEIGHT].shape == weights[WEIGHT].shape
    killed = RunFolder(tmp_path / "killed")
    command = [f"run_dir={killed.path}", *settings_of(root, shared_cache, *settings)]
    done = subprocess.run([sys.executable, "-c", KILLED, str(killed.checkpoint(2)), *with_twin(command)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not killed.checkpoint(4).exists()
    train("killed", *settings, "resume=auto")
    assert [line["loss"] for line in read_metrics(killed.metrics)] == [
        line["loss"] for line in read_metrics(run.metrics)
    ]
    for name in ("trainable.safetensors", "optimizer.safetensors"):
        resumed, straight = (load_file(one.checkpoint(4) / name) for one in (killed, run))
        assert resumed.keys() == straight.keys()
        assert all(torch.equal(resumed[key], straight[key]) for key in straight)


STOCK = """
import sys, json, torch, numpy as np
from PIL import Image
from diffusers import CogVideoXDDIMScheduler, CogVideoXFunControlPipeline, CogVideoXTransformer3DModel
from safetensors.torch import load_file
base, export, merged, out = sys.argv[1:]
frames = [Image.fromarray(frame) for frame in np.load(out + "/control.npy")]
given = {"control_video": frames, "height": 32, "width": 48, "num_inference_steps": 3, "output_type": "np"}
given |= {"prompt": "box 1", "max_sequence_length": 226}

def sample(transformer):
    pipe = CogVideoXFunControlPipeline.from_pretrained(base, transformer=transformer)
    pipe.scheduler = CogVideoXDDIMScheduler.from_config(pipe.scheduler.config)
    if transformer is not whole:
        pipe.load_lora_weights(export)
    return pipe(**given, generator=torch.Generator().manual_seed(5)).frames[0]

whole = CogVideoXTransformer3DModel.from_pretrained(merged)
wide = {"in_channels": whole.config.in_channels, "ignore_mismatched_sizes": True, "low_cpu_mem_usage": False}
transformer = CogVideoXTransformer3DModel.from_pretrained(base, subfolder="transformer", **wide)
transformer.load_state_dict(load_file(export + "/patch_embed.safetensors"), strict=False)
np.save(out + "/lora.npy", sample(transformer))
np.save(out + "/whole.npy", sample(whole))
"""


def test_diffusers_alone_samples_from_the_export(trained: RunFolder, tmp_path: Path) -> None:
    """The recipe of the documentation, and the merged transformer, in a process without this project."""
    run, job = trained, read_job(trained.path)
    base, compute = pipeline_folder(job.model, job.cache_dir), choose_compute("cpu", job.model)
    request = VideoRequest("box 1", "", 5, 9, 32, 48, 8, 3, 6.0, False, control=str(job.data.root) + "/controls/1.mp4")
    np.save(tmp_path / "control.npy", control_of(request))
    command = [sys.executable, "-c", STOCK, str(base), str(run.export), str(run.export / "transformer"), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    theirs, merged = (np.load(tmp_path / f"{name}.npy") for name in ("lora", "whole"))

    transformer = load_trained(load_transformer(base, compute), run.export / LORA_FILE, compute)
    texts = [request.prompt, request.negative_prompt]
    context = PipelineContext(base, compute, job.memory, job.cache_dir, build_task(job.task))
    embeds = dict(zip(texts, load_embeds(texts, prepare_captions(texts, context), context.cache), strict=True))
    vae, scheduler = load_vae(base, compute, job.memory), load_scheduler(base, "ddim")
    ours = Sampler(transformer.eval(), vae, scheduler, embeds, compute, controlled=True).sample(request) / 255
    assert np.abs(ours - theirs).max() < 0.02
    assert np.abs(merged - theirs).max() < 0.02
    other = replace(request, control=str(job.data.root) + "/controls/3.mp4")
    moved = Sampler(transformer.eval(), vae, scheduler, embeds, compute, controlled=True).sample(other) / 255
    assert np.abs(moved - ours).max() > 0.05


def test_training_starts_from_the_patch_embedding_of_another_run(
    trained: RunFolder, train, tmp_path: Path, shared_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = f"method.init_from={trained.path}"
    second = train("second", "validation=none", "steps=1", "data.control=gray", start, "optim.lr=0")
    assert torch.equal(*(load_file(run.export / PATCH_FILE)[WEIGHT] for run in (trained, second)))
    capsys.readouterr()
    assert main([f"run_dir={tmp_path / 'other'}", f"cache_dir={shared_cache}", "validation=none", start]) == 2
    assert "was trained with a condition, but this run has none" in capsys.readouterr().err


def test_the_model_card_has_the_recipe(trained: RunFolder) -> None:
    card = (trained.path / "hub/README.md").read_text()
    assert (trained.path / "hub" / PATCH_FILE).is_file()
    assert 'wide = {"in_channels": 8, "ignore_mismatched_sizes": True' in card
    assert "CogVideoXDDIMScheduler.from_config" in card
    code = card.split("```python")[1].split("```")[0]
    compile(code, "card", "exec")


@pytest.mark.parametrize(
    "settings", [["task.condition=prefix"], extended(["data.control=blur"]), extended([])], ids=" ".join
)
def test_encoding_in_the_loop_gives_the_same_losses(settings: list[str], train) -> None:
    both = [
        train(f"{encode}", "validation=none", f"data.encode={encode}", *settings).metrics
        for encode in ("cache", "online")
    ]
    cached, online = ([line["loss"] for line in read_metrics(path)] for path in both)
    assert online == pytest.approx(cached, rel=1e-4)


def test_generate_samples_with_conditions(
    trained: RunFolder, tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained
    shown = sorted(run.conditions.glob("*.mp4"))
    assert [path.name for path in shown] == ["00-box-0.mp4"]
    frames = np.stack(list(open_video(str(shown[0])).frames(range(9)))).astype(int)
    assert np.abs(frames - recipe_of("gray", {}).apply(boxes(2)[::2])).mean() < 3, "of validation.controls"
    assert (run.path / "videos.png").is_file()
    assert -1 <= read_metrics(run.scores)[-1]["condition"] < 1
    assert '"condition": "../conditions/00-box-0.mp4"' in (run.path / "report/data.js").read_text()
    clip = root / "videos/2.mp4"
    settings = [f"generate.adapter={run.path}", "generate.prompts=[box 2]", "generate.num_inference_steps=2"]
    out = tmp_path / "out"
    assert (
        generate([*settings, f"generate.controls={clip}", f"generate.output_dir={out}", "generate.compare=true"]) == 0
    )
    (video,) = out.glob("*.mp4")
    told = json.loads(video.with_suffix(".json").read_text())
    assert told["control"] == f"gray of {clip}"
    assert all({"condition", "flicker"} <= scores.keys() for scores in told["scores"]), "of both strengths"
    assert told["scores"][0] != told["scores"][1]
    assert "copying" not in told["scores"][0], "only a run knows its clips"
    frames = np.stack(list(open_video(str(video)).frames(range(9)))).astype(float)
    condition, base, trained = np.split(frames[:, -32:], 3, axis=2)
    assert np.abs(condition - condition.mean(-1, keepdims=True)).mean() < 4, "grey"
    assert np.abs(base - trained).mean() > 1
    again = tmp_path / "again"
    assert generate([f"generate.replay={video.with_suffix('.json')}", f"generate.output_dir={again}"]) == 0
    assert (again / video.name).read_bytes() == video.read_bytes()
    capsys.readouterr()
    assert generate(settings) == 2
    assert "needs one control video per prompt (1), but generate.controls has 0" in capsys.readouterr().err
    export = shutil.copytree(run.export, tmp_path / "export")
    (export / PATCH_FILE).unlink()
    given = [f"generate.adapter={export}", "model=tiny-5b", f"generate.controls={clip}", "generate.prompts=[box]"]
    assert generate(given) == 2
    assert "was trained for task=control with 8 input channels, but this model has 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings",
    [
        extended(["distributed=fsdp", "distributed.processes=2"]),
        ["memory.stream_blocks=true", "memory.activations=offload"],
        extended(["distributed=ddp", "distributed.processes=2"]),
        extended(["quant=int8"]),
        ["model=tiny-2b", "method=loha", "task.condition=first"],
        extended(["model=tiny-1.5", "method=lokr", "task.condition=mask"]),
        extended(["distributed=fsdp", "distributed.processes=2", "method=sft"]),
        extended(["distributed=zero2", "distributed.processes=2"]),
        extended(["compile=blocks", "method=lora_ff"]),
        extended(["quant=int8", "memory.activations=checkpoint"]),
    ],
    ids=" ".join,
)
def test_the_widened_model_works_with_the_other_groups(settings: list[str], train) -> None:
    run = train("run", *settings, "optim.lr=1e-2", "data.holdout=1", "data.caption_dropout=0")
    weights = load_file(run.checkpoint(4) / "trainable.safetensors")[WEIGHT]
    assert weights[:, weights.shape[1] // 2 :].abs().max() > 1e-3
    assert len(list(run.path.glob("validation/*/*.mp4"))) == 2


def test_only_conditions_are_encoded_again_when_their_recipe_changes(root: Path, shared_cache: Path) -> None:
    folder = shared_cache / "encoded"

    def encode(*settings: str) -> dict[Path, int]:
        given = [f"cache_dir={shared_cache}", "task=control", "data=files", f"data.root={root}", *settings]
        assert prepare(given) == 0
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}

    before = encode()
    after = encode("data.control=downscale")
    assert {path: after[path] for path in before} == before
    assert len(after) == len(before) + 4
    assert encode("data.control=downscale") == after
    assert len(encode("data.control=downscale", "+data.control_kwargs.factor=2")) == len(after) + 4
