"""Every optimizer and schedule moves the weights, and goes on from a checkpoint as if nothing had happened."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cogvx_exp.config.schema import LrScheduler
from cogvx_exp.tracking.run_folder import RunFolder
from cogvx_exp.train import main
from cogvx_exp.training.optimizer import build_lr_scheduler


@pytest.mark.parametrize("optim", ["adamw", "adam", "adamw8bit", "adam8bit"])
def test_resume_equals_an_uninterrupted_run(optim: str, tmp_path: Path, shared_cache: Path) -> None:
    run = RunFolder(tmp_path / "run")
    # Rank 128, so that there are tensors of 4096 values: bitsandbytes keeps smaller ones in 32 bits.
    settings = [f"optim={optim}", "method.rank=128", "steps=6", "checkpoint.every=3", "lr_scheduler=constant"]
    settings += [f"run_dir={run.path}", f"cache_dir={shared_cache}", "validation=none", "batch_size=2"]
    assert main(settings) == 0
    start = load_file(run.checkpoint(3) / "trainable.safetensors")
    end = {name: load_file(run.checkpoint(6) / name) for name in ("trainable.safetensors", "optimizer.safetensors")}
    assert any(not torch.equal(start[name], weight) for name, weight in end["trainable.safetensors"].items())
    if optim.endswith("8bit"):
        assert any(tensor.dtype == torch.uint8 for tensor in end["optimizer.safetensors"].values())
    shutil.rmtree(run.checkpoint(6))
    assert main([*settings, "resume=latest"]) == 0
    for file, tensors in end.items():
        again = load_file(run.checkpoint(6) / file)
        assert again.keys() == tensors.keys()
        assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


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
