"""Compiled blocks train like eager ones, for every way of running the blocks."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from hydra import compose, initialize_config_dir
from torch._dynamo.callback import CallbackArgs, CallbackTrigger
from torch._dynamo.utils import counters
from torch.profiler import ProfilerActivity, profile

from cogvx_exp.config.paths import conf_dir
from cogvx_exp.config.rules.jobs import check_train
from cogvx_exp.config.schema import TrainJob
from cogvx_exp.config.typed import typed
from cogvx_exp.console import progress
from cogvx_exp.console.terminal import PlainConsole
from cogvx_exp.core.errors import UserError
from cogvx_exp.model import compilation
from cogvx_exp.model.adapt import make_trainable, trainable_parameters
from cogvx_exp.model.attention.backends import set_attention
from cogvx_exp.model.compilation import compile_blocks
from cogvx_exp.model.device import Compute
from cogvx_exp.model.offload.blocks import apply_memory_options
from cogvx_exp.model.positions import rotary_positions
from cogvx_exp.model.quantization.quantize import quantize_block
from tests.conftest import MakeJob, extended

CPU = Compute(torch.device("cpu"), torch.float32)
STEPS = 20
ATTENTION = "aten::_scaled_dot_product_flash_attention_for_cpu"


def train(
    make_job: MakeJob,
    settings: list[str],
    dynamic: bool | None = None,
    compile_to: Path | None = None,
    shapes: tuple[int, ...] = (2, 3),
) -> dict[str, Any]:
    """Outputs and gradients of passes over clips of several shapes; compiled if a cache folder is given."""
    transformer = build(make_job, settings, dynamic, compile_to)
    results = [_pass(transformer, frames) for frames in shapes]
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        _pass(transformer, shapes[0])
    attended = sum(event.count for event in profiled.key_averages() if event.key == ATTENTION)
    return {"results": results, "graphs": counters["stats"]["unique_graphs"], "attended": attended}


def build(
    make_job: MakeJob, settings: list[str], dynamic: bool | None, compile_to: Path | None
) -> CogVideoXTransformer3DModel:
    """A trainable model, as a run builds it."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    counters.clear()
    job = make_job("model=tiny-5b", *settings)
    transformer = CogVideoXTransformer3DModel(**job.model.transformer.model_dump()).requires_grad_(False)
    for block in transformer.transformer_blocks if job.quant.name != "none" else []:
        quantize_block(block, job.quant.name, CPU, in_8_bits=job.quant.compute == "8bit")
    make_trainable(transformer, job.method, 0)
    with torch.no_grad():
        for parameter in trainable_parameters(transformer).values():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    names = list(transformer.state_dict())
    transformer.train()
    apply_memory_options(transformer, job.memory, CPU.device)
    set_attention(transformer, job.attention)
    if compile_to:
        compile_blocks(transformer, dynamic, compile_to)
    assert list(transformer.state_dict()) == names
    return transformer


def _pass(transformer: CogVideoXTransformer3DModel, frames: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(frames)
    latents = torch.randn(1, frames, transformer.config.in_channels, 4, 6, generator=generator)
    text = torch.randn(1, 226, transformer.config.text_embed_dim, generator=generator)
    positions = rotary_positions(dict(transformer.config), (frames, 4, 6), latents.device)
    transformer.zero_grad()
    output = transformer(latents, text, torch.tensor([500]), image_rotary_emb=positions, return_dict=False)[0]
    output.square().mean().backward()
    return [output.detach(), *(parameter.grad for parameter in trainable_parameters(transformer).values())]


@pytest.mark.parametrize(
    "settings",
    [
        ["method=lora", "memory.activations=selective"],
        extended(["method=sft", "memory.activations=keep"]),
        extended(["method=lora_ff", "memory=12gb", "memory.ff_chunks=2"]),
        extended(["method=lora_ff", "memory=12gb", "memory.ff_chunks=2", "attention=int8"]),
        extended(["method=lora", "memory.activations=checkpoint", "quant=nf4"]),
        extended(["method=lora", "memory.activations=keep", "quant=int8", "quant.compute=8bit"]),
    ],
    ids=str,
)
def test_the_same_gradients_from_few_graphs(
    make_job: MakeJob, settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")  # traces and differentiates like inductor, but in seconds
    eager, compiled = train(make_job, settings), train(make_job, settings, compile_to=tmp_path)
    for expected, found in zip(eager["results"], compiled["results"], strict=True):
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-7)
    assert compiled["attended"] == eager["attended"]  # selective checkpointing still keeps attention's output
    # Two kinds of blocks (the first one's input needs no gradient), each compiled for its first and for dynamic shapes.
    assert 2 <= compiled["graphs"] <= 6


def losses(make_job: MakeJob, settings: list[str], compile_to: Path | None) -> list[float]:
    """Losses of 20 steps."""
    transformer = build(make_job, settings, None, compile_to)
    optimizer = torch.optim.AdamW(trainable_parameters(transformer).values(), lr=1e-3)
    found = []
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        latents, target = (
            torch.randn(1, 2, transformer.config.in_channels, 4, 6, generator=generator) for _ in range(2)
        )
        text = torch.randn(1, 226, transformer.config.text_embed_dim, generator=generator)
        positions = rotary_positions(dict(transformer.config), (2, 4, 6), latents.device)
        timestep = torch.randint(1000, (1,), generator=generator)
        output = transformer(latents, text, timestep, image_rotary_emb=positions, return_dict=False)[0]
        loss = (output - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


@pytest.mark.parametrize(
    ("backend", "settings"),
    [
        ("aot_eager", ["method=lora"]),
        extended("aot_eager", ["method=sft", "memory.activations=checkpoint"]),
        extended("inductor", ["method=lora"]),
        extended("inductor", ["method=sft", "memory.activations=checkpoint"]),
    ],
    ids=str,
)
def test_losses_of_20_steps_are_those_of_eager_blocks(
    backend: str, make_job: MakeJob, settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "BACKEND", backend)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    eager, compiled = losses(make_job, settings, None), losses(make_job, settings, tmp_path)
    assert counters["stats"]["unique_graphs"] > 0
    assert compiled == pytest.approx(eager, rel=1e-5)
    assert abs(eager[-1] - eager[0]) > 1e-3, "the weights move"


def test_dynamic_shapes_are_a_choice(make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    settings = ["model.transformer.num_layers=1"]
    graphs = {
        dynamic: train(make_job, settings, dynamic, tmp_path, shapes=(3, 4, 5))["graphs"]
        for dynamic in (True, None, False)
    }
    assert graphs == {True: 1, None: 2, False: 3}


@pytest.mark.parametrize("terminal", [False, True])
def test_what_is_being_compiled_is_shown(
    terminal: bool, make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    output = StringIO()
    monkeypatch.setattr(progress, "console", PlainConsole(file=output, force_terminal=terminal, width=120))
    train(make_job, [], None, tmp_path, shapes=(3,))
    shown = output.getvalue()
    assert ("\x1b" in shown) == terminal
    for block in (1, 2):  # the first one's input needs no gradient
        assert f"{block}/2" in shown
    assert "forward pass of a block" in shown
    about = CallbackArgs(CallbackTrigger.LAZY_BACKWARD, "0")
    compilation._reporter.start(about)
    compilation._reporter.end(about)
    assert "backward pass of a block" in output.getvalue()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["method=dora"], "only supports"),
        (["method=lokr"], "only supports"),
        (["distributed=zero3"], "use fsdp"),
        (["compile=false", "compile_dynamic=true"], "compile=blocks"),
    ],
)
def test_what_cannot_be_compiled_is_refused(settings: list[str], words: str) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        job = typed(compose("train", ["compile=true", *settings]), TrainJob)
    (issue,) = check_train(job)
    assert words in issue.problem


def test_adapters_that_break_the_graph_are_refused(make_job: MakeJob, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only supports LoRA"):
        build(make_job, ["method=dora"], None, tmp_path)
