"""The process of the piece `blocks`: `python -m benchmarks.gpu.block_worker FILE` (see `blocks.py`).

Each row trains a random model of four blocks on a clip of the native size: forward and backward pass, without optimizer.
"""

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cogvx_exp.console.quiet import quiet_libraries

quiet_libraries()

import torch
from diffusers import CogVideoXTransformer3DModel
from hydra import compose, initialize_config_dir

from benchmarks.gpu.blocks import key_of
from benchmarks.gpu.machine import describe_machine
from benchmarks.gpu.results import FAILED, MEASURED, NO_MEMORY, Result, Results
from benchmarks.gpu.table import BLOCKS, simulated
from benchmarks.gpu.worker import in_one_line, is_out_of_memory
from cogvx_exp.config.paths import conf_dir
from cogvx_exp.config.rules.jobs import check_memory
from cogvx_exp.config.schema import TrainJob
from cogvx_exp.config.typed import typed
from cogvx_exp.core.errors import UserError
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.diffusion.batch import Batch
from cogvx_exp.diffusion.denoise import denoising_loss
from cogvx_exp.estimate.time.work import flop_count, shape_of
from cogvx_exp.estimate.trace.fake_models import fake_batch
from cogvx_exp.model.adapt import make_trainable, trained_dtype
from cogvx_exp.model.attention.backends import attention_function, check_attention, set_attention
from cogvx_exp.model.compilation import compile_blocks
from cogvx_exp.model.device import Compute, choose_compute
from cogvx_exp.model.offload.blocks import apply_memory_options
from cogvx_exp.model.quantization.quantize import check_products, quantize_block

DEPTH = 4
WARM_UP, TIMED = 2, 5
HEADS, TOKENS, HEAD_DIM = 48, 17_776, 64
"""Of attention in the 5b at its native size: 17,550 video and 226 text tokens."""


def main(file: Path) -> None:
    """Measures the rows that a file names: JSON with `rows`, `out`, `cache`, `until` (a time) and `marks` of results."""
    asked = json.loads(file.read_text(encoding="utf-8"))
    results, marks = Results(Path(asked["out"])), asked["marks"] | {"machine": describe_machine()}
    for row in asked["rows"]:
        if time.time() > asked["until"]:
            return
        measured = measure(row, Path(asked["cache"]), simulate="simulated" in marks)
        found = {"key": key_of(row), "piece": BLOCKS, "settings": row, **marks, **measured}
        results.add(found)
        print(f"{row}: {told(found)}", flush=True)


def measure(row: str, cache: Path, *, simulate: bool) -> Result:
    """Times one row, or a small model instead of its own; what goes wrong is its result."""
    started = time.monotonic()
    torch.cuda.reset_peak_memory_stats()
    try:
        if "model=" in row:
            times = block_times(simulated(row) if simulate else row, cache)
        else:
            times = kernel_times("attention=auto" if simulate else row, TOKENS // 100 if simulate else TOKENS)
        result: Result = {"status": MEASURED, **times}
    except UserError as error:
        result = {"status": FAILED, "error": str(error)}
    except Exception as error:
        result = {"status": NO_MEMORY if is_out_of_memory(error) else FAILED, "error": in_one_line(error)}
    result |= {"allocated": round(torch.cuda.max_memory_allocated() / 2**30, 3)}
    torch._dynamo.reset()
    gc.collect()
    torch.cuda.empty_cache()
    return result | {"seconds": round(time.monotonic() - started, 1)}


def told(result: Result) -> str:
    """A result in a line."""
    if result["status"] != MEASURED:
        return f"{result['status']}: {result['error']}"
    forward, step = result["forward_ms"], result["step_ms"]
    return (
        f"forward {forward:.1f} ms, with backward {step:.1f} ms, "
        f"{result['tflops']:.0f} TFLOP/s, {result['allocated']:.1f} GiB, in {result['seconds']:.0f} s"
    )


def kernel_times(settings: str, tokens: int) -> dict[str, float]:
    """Milliseconds of an attention kernel alone, in bfloat16. Each product of the scores' size counts, also those that the
    backward pass computes again: two forward, five backward."""
    job = job_of(f"model=5b {settings}")
    attend = attention_function(job.attention)
    shape = (1, tokens, HEADS, HEAD_DIM)
    inputs = [torch.randn(shape, device="cuda", dtype=torch.bfloat16).requires_grad_() for _ in range(3)]
    gradient = torch.randn(shape, device="cuda", dtype=torch.bfloat16)

    def forward() -> torch.Tensor:
        return attend(*inputs)

    def step() -> None:
        torch.autograd.grad(forward(), inputs, gradient)

    return _times(forward, step, 7 * 2 * HEADS * tokens**2 * HEAD_DIM)


def block_times(settings: str, cache: Path) -> dict[str, float]:
    """Milliseconds of a model of `DEPTH` blocks, divided by their number."""
    job = job_of(settings)
    compute = choose_compute("cuda", job.model)
    transformer, batch, loss = _model(job, compute, cache), _batch(job, compute), _loss(job, compute)
    work = flop_count(job, _native(job)).training(shape_of(job, _native(job), 1))

    def forward() -> torch.Tensor:
        with compute.autocast():
            return loss(transformer, batch).mean()

    def step() -> None:
        forward().backward()
        transformer.zero_grad()

    times = _times(forward, step, work.model)
    return {name: value if name == "tflops" else value / DEPTH for name, value in times.items()}


def job_of(settings: str) -> TrainJob:
    """A checked job of few blocks."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        job = typed(compose("train", [f"model.transformer.num_layers={DEPTH}", *settings.split()]), TrainJob)
    if issues := check_memory(job):
        raise UserError("; ".join(map(str, issues)))
    return job


def _model(job: TrainJob, compute: Compute, cache: Path) -> CogVideoXTransformer3DModel:
    """As `training/setup.py` builds it, with random weights."""
    check_attention(job.attention, compute)
    check_products(job.quant, compute)
    torch.manual_seed(0)
    weights = torch.float32 if job.method.adapter is None and job.model.dtype != "bfloat16" else compute.dtype
    with torch.device(compute.device):
        transformer = CogVideoXTransformer3DModel(**job.model.transformer.model_dump()).to(weights)
    transformer.requires_grad_(False)
    for block in transformer.transformer_blocks if job.quant.name != "none" else []:
        quantize_block(block, job.quant.name, compute, in_8_bits=job.quant.compute == "8bit")
    make_trainable(transformer, job.method, 0, trained_dtype(job.optim))
    apply_memory_options(transformer.to(compute.device).train(), job.memory, compute.device)
    set_attention(transformer, job.attention)
    if job.compile:
        compile_blocks(transformer, job.compile_dynamic, cache)
    return transformer


def _native(job: TrainJob) -> Bucket:
    return Bucket(job.model.native.num_frames, job.model.native.height, job.model.native.width)


def _batch(job: TrainJob, compute: Compute) -> Batch:
    return fake_batch(job, _native(job), 1).map(
        lambda tensor: torch.randn(tensor.shape, device=compute.device) if tensor.is_floating_point() else tensor
    )


def _loss(job: TrainJob, compute: Compute) -> Callable[..., torch.Tensor]:
    alphas = torch.linspace(0.999, 0.001, job.model.scheduler.num_train_timesteps, device=compute.device)
    loss = denoising_loss(alphas, job.model.transformer.model_dump(), compute.dtype)

    def at_one_timestep(transformer: torch.nn.Module, batch: Batch) -> torch.Tensor:
        batch.timesteps.fill_(500)
        return loss(transformer, batch.to(compute.device))

    return at_one_timestep


def _times(forward: Callable[[], Any], step: Callable[[], Any], work: float) -> dict[str, float]:
    step_ms = _median_ms(step)
    return {"step_ms": step_ms, "forward_ms": _median_ms(forward), "tflops": work / step_ms / 1e9}


def _median_ms(run: Callable[[], Any]) -> float:
    for _ in range(WARM_UP):
        run()
    times = []
    for _ in range(TIMED):
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
