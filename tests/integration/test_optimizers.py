"""Every optimizer and schedule moves the weights, and goes on from a checkpoint as if nothing had happened."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from safetensors.torch import load_file

from cogvx_exp.config.schema import LrScheduler
from cogvx_exp.optim.lr_scheduler import build_lr_scheduler
from cogvx_exp.runs.metrics import read_metrics
from cogvx_exp.runs.run_folder import RunFolder
from tests.conftest import extended, needs_compiler
from tests.entry import generate
from tests.entry import train as main

MORE = map(extended, ["adam8bit", "ao_adamw8bit", "prodigy", "muon"])


@pytest.mark.parametrize("optim", ["adamw", "adamw8bit", "cpu_offload", "schedule_free", *MORE])
def test_resume_equals_an_uninterrupted_run(optim: str, tmp_path: Path, shared_cache: Path) -> None:
    needs_compiler(optim)
    run = RunFolder(tmp_path / "run")
    # Rank 128, so that there are tensors of 4096 values: bitsandbytes keeps smaller ones in 32 bits.
    settings = [f"optim={optim}", "method.rank=128", "steps=6", "checkpoint.every=3", "lr_scheduler=constant"]
    settings += [f"run_dir={run.path}", f"cache_dir={shared_cache}", "validation=none", "batch_size=2"]
    assert main(settings) == 0
    start = load_file(run.checkpoint(3) / "trainable.safetensors")
    end = {name: load_file(run.checkpoint(6) / name) for name in ("trainable.safetensors", "optimizer.safetensors")}
    assert any(not torch.equal(start[name], weight) for name, weight in end["trainable.safetensors"].items())
    if optim in ("adamw8bit", "adam8bit", "ao_adamw8bit"):
        assert any(tensor.dtype == torch.uint8 for tensor in end["optimizer.safetensors"].values())
    shutil.rmtree(run.checkpoint(6))
    assert main([*settings, "resume=latest"]) == 0
    for file, tensors in end.items():
        again = load_file(run.checkpoint(6) / file)
        assert again.keys() == tensors.keys()
        assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(RunFolder(run).metrics)]


def test_released_gradients_train_the_same_weights_and_resume(tmp_path: Path, shared_cache: Path) -> None:
    settings = ["method=sft", "steps=4", "max_grad_norm=null", f"cache_dir={shared_cache}"]
    settings += ["validation.num_inference_steps=1", "validation.baseline=false"]
    settings += ["lr_scheduler=constant", "checkpoint.every=2"]
    plain, released = RunFolder(tmp_path / "plain"), RunFolder(tmp_path / "released")
    assert main([*settings, f"run_dir={plain.path}"]) == 0
    release = [*settings, f"run_dir={released.path}", "optim.release_gradients=true"]
    assert main(release) == 0
    assert losses(released.path) == losses(plain.path)
    norms = [[line["grad_norm"] for line in read_metrics(run.metrics)] for run in (plain, released)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    shutil.rmtree(released.checkpoint(4))
    assert main([*release, "resume=latest"]) == 0
    assert losses(released.path) == losses(plain.path)


@pytest.mark.extended
def test_bfloat16_weights_with_stochastic_rounding(tmp_path: Path, shared_cache: Path) -> None:
    needs_compiler("cpu_offload_bf16")
    run = RunFolder(tmp_path / "run")
    settings = ["method=sft", "method.parameters=attn1.to_q", "optim=cpu_offload_bf16", "model.dtype=bfloat16"]
    assert main([*settings, "steps=3", f"run_dir={run.path}", f"cache_dir={shared_cache}", "validation=none"]) == 0
    weights = load_file(run.checkpoint(3) / "trainable.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert all(math.isfinite(loss) for loss in losses(run.path))


@pytest.mark.parametrize(
    "settings",
    [
        ["memory.activations=selective"],
        ["memory=16gb"],
        ["memory=12gb", "validation=default"],
    ],
    ids=" ".join,
)
def test_the_way_blocks_are_run_does_not_change_the_run(
    settings: list[str], tmp_path: Path, shared_cache: Path
) -> None:
    common = ["steps=3", f"cache_dir={shared_cache}", "lr_scheduler=constant", "validation=none"]
    assert main([*common, f"run_dir={tmp_path / 'plain'}"]) == 0
    assert main([*common, *settings, f"run_dir={tmp_path / 'run'}"]) == 0
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)


@pytest.mark.parametrize("quant", ["nf4", "int8", extended("fp8")])
def test_lora_of_a_quantized_base_is_one_for_the_plain_base(quant: str, tmp_path: Path, shared_cache: Path) -> None:
    settings = ["model.dtype=bfloat16", "steps=6", "lr_scheduler=constant", f"cache_dir={shared_cache}"]
    small = ["validation.num_inference_steps=1", "batch_size=4"]
    assert main([*settings, *small, f"run_dir={tmp_path / 'plain'}"]) == 0
    assert main([*settings, *small, f"quant={quant}", "export.merge=true", f"run_dir={tmp_path / 'run'}"]) == 0
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "plain"), rel=0.02)
    assert losses(tmp_path / "run") != losses(tmp_path / "plain"), "the base is another one"
    file = "export/pytorch_lora_weights.safetensors"
    ours, theirs = load_file(tmp_path / "run" / file), load_file(tmp_path / "plain" / file)
    assert ours.keys() == theirs.keys()
    assert all(weight.dtype == torch.float32 for weight in ours.values())
    sample = [f"generate.adapter={tmp_path / 'run'}", "generate.num_inference_steps=1", f"cache_dir={shared_cache}"]
    assert generate([*sample, f"generate.output_dir={tmp_path / 'videos'}"]) == 0
    merged = CogVideoXTransformer3DModel.from_pretrained(tmp_path / "run" / "export" / "transformer")
    assert {type(module) for module in merged.modules()} & {torch.nn.Linear}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"name": "constant"}, lambda step: 1),
        ({"name": "constant_with_warmup", "warmup_steps": 10}, lambda step: min(step / 10, 1)),
        ({"name": "linear", "warmup_steps": 10}, lambda step: min(step / 10, (100 - step) / 90)),
        (
            {"name": "cosine", "warmup_steps": 10},
            lambda step: step / 10 if step < 10 else 0.5 + 0.5 * math.cos(math.pi * (step - 10) / 90),
        ),
        (
            {"name": "cosine_with_restarts", "warmup_steps": 10, "num_cycles": 3},
            lambda step: step / 10 if step < 10 else 0.5 + 0.5 * math.cos(math.pi * (3 * (step - 10) / 90 % 1)),
        ),
        (
            {"name": "polynomial", "warmup_steps": 10, "power": 2},
            lambda step: step / 10 if step < 10 else ((100 - step) / 90) ** 2,
        ),
    ],
)
def test_learning_rate_follows_its_formula(settings: dict, expected) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build_lr_scheduler(optimizer, LrScheduler(**settings), steps=100)
    for step in range(100):
        assert scheduler.get_last_lr()[0] == pytest.approx(expected(step), abs=1e-6), step
        optimizer.step()
        scheduler.step()
