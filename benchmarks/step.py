"""Relative time of a training step for each way of running the blocks.

    python -m benchmarks.step               # presets of memory, relative to memory.activations=keep
    python -m benchmarks.step --compile     # compiled blocks and diffusers' attention processor, relative to neither

A small CogVideoX (4 layers of 8 heads, 17 frames of 128x192, LoRA) takes steps with each arrangement in turn, which
spreads slow moments of the machine over all of them. On a CPU, copies to the host are free: `offload` and
`stream_blocks` only show their overhead.
"""

import statistics
import sys
import time

from cogvx_exp.console.quiet import quiet_libraries

quiet_libraries()

import torch
from diffusers import CogVideoXTransformer3DModel
from hydra import compose, initialize_config_dir

from cogvx_exp.config.paths import conf_dir
from cogvx_exp.config.schema import TrainJob
from cogvx_exp.config.typed import typed
from cogvx_exp.diffusion.batch import Batch
from cogvx_exp.diffusion.denoise import denoising_loss
from cogvx_exp.model.adapt import make_trainable
from cogvx_exp.model.attention.backends import set_attention
from cogvx_exp.model.compilation import compile_blocks
from cogvx_exp.model.device import Compute
from cogvx_exp.model.offload.blocks import apply_memory_options

SMALL = ["model=5b", "model.transformer.num_layers=4", "model.transformer.num_attention_heads=8", "++method.rank=32"]
ARRANGEMENTS = {
    "keep": [],
    "checkpoint": ["memory.activations=checkpoint"],
    "selective": ["memory.activations=selective"],
    "offload": ["memory.activations=offload"],
    "checkpoint, ff_chunks=4": ["memory.activations=checkpoint", "memory.ff_chunks=4"],
    "checkpoint, stream_blocks": ["memory.activations=checkpoint", "memory.stream_blocks=true"],
}
STOCK = "diffusers' attention processor"
CHECKPOINT = "memory.activations=checkpoint"
COMPILED = {
    "lora": {"eager": [], STOCK: [], "compiled": ["compile=blocks"]},
    "lora, checkpoint": {"eager": [CHECKPOINT], "compiled": [CHECKPOINT, "compile=blocks"]},
    "sft": {"eager": ["method=sft"], STOCK: ["method=sft"], "compiled": ["method=sft", "compile=blocks"]},
}
ROUNDS = 7


def seconds_a_step(arrangements: dict[str, list[str]]) -> dict[str, list[float]]:
    """Seconds per round, by arrangement."""
    compute = Compute(torch.device("cpu"), torch.float32)
    steps = {name: _step(settings, compute, stock=name == STOCK) for name, settings in arrangements.items()}
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - started)
    return times


def _step(settings, compute, *, stock):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        job = typed(compose("train", [*SMALL, "memory.activations=keep", *settings]), TrainJob)
    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel(**job.model.transformer.model_dump()).requires_grad_(False)
    make_trainable(transformer, job.method, 0)
    apply_memory_options(transformer.train(), job.memory, compute.device)
    if not stock:
        set_attention(transformer, job.attention)
    if job.compile:
        compile_blocks(transformer, job.compile_dynamic, job.cache_dir)
    loss = denoising_loss(torch.linspace(0.999, 0, 1000), dict(transformer.config), compute.dtype)
    latents = torch.randn(1, 5, 16, 16, 24)
    batch = Batch(latents, torch.randn_like(latents), torch.tensor([500]), torch.randn(1, 226, 4096), [], [])

    def step():
        loss(transformer, batch).mean().backward()
        transformer.zero_grad()

    return step


def ratios(arrangements: dict[str, list[str]] = ARRANGEMENTS) -> dict[str, float]:
    """Time of each arrangement relative to the first: the median ratio over the rounds."""
    times = seconds_a_step(arrangements)
    first = next(iter(times.values()))
    pairs = {name: [a / b for a, b in zip(values, first, strict=True)] for name, values in times.items()}
    return {name: statistics.median(values) for name, values in pairs.items()}


if __name__ == "__main__":
    groups = COMPILED if "--compile" in sys.argv else {"": ARRANGEMENTS}
    for group, arrangements in groups.items():
        for name, ratio in ratios(arrangements).items():
            print(f"{group:<18} {name:<34} {ratio:.2f}", flush=True)
