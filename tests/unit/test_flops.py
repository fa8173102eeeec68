"""The operations of a step, counted from the architecture, compared with torch's count of real steps."""

from typing import Any

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.diffusion.batch import Batch
from cogvx_exp.diffusion.denoise import denoising_loss, model_inputs
from cogvx_exp.estimate.time.flops import FlopCount, Flops, Shape
from cogvx_exp.model.adapt import make_trainable, trainable_parameters
from cogvx_exp.model.offload.blocks import apply_memory_options
from tests.conftest import MakeJob
from tests.doc_pages import ROOT

# torch has no formula for the CPU kernels, which compute the same products as those of a GPU.
KERNELS: dict[Any, Any] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: sdpa_flop_count(*shapes[:3]),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *shapes, **_: sdpa_backward_flop_count(
        *shapes[:4]
    ),
}
DEEP = "model.transformer.num_layers=3"


def step(job: TrainJob) -> tuple[FlopCount, Shape, Batch, torch.nn.Module]:
    """A real model, set up as for training, and a batch."""
    transformer = CogVideoXTransformer3DModel(**job.model.transformer.model_dump()).requires_grad_(False)
    make_trainable(transformer, job.method, 0)
    apply_memory_options(transformer.train(), job.memory, torch.device("cpu"))
    shapes = {name: tuple(weight.shape) for name, weight in trainable_parameters(transformer).items()}
    config = dict(transformer.config)
    shape = Shape(job.batch_size, 2 * (config["patch_size_t"] or 1), 8, 12, config["max_text_seq_length"])
    latents = torch.randn(shape.clips, shape.frames, config["out_channels"], shape.height, shape.width)
    condition = torch.randn_like(latents) if config["in_channels"] > config["out_channels"] else None
    text = torch.randn(shape.clips, shape.text, config["text_embed_dim"])
    times = torch.full((shape.clips,), 500)
    batch = Batch(latents, torch.randn_like(latents), times, text, [], [], condition=condition)
    return FlopCount(config, shapes, job.memory.activations, job.memory.ff_chunks), shape, batch, transformer


def torch_counts(job: TrainJob, transformer: torch.nn.Module, batch: Batch, passes: int = 1) -> float:
    loss = denoising_loss(torch.linspace(0.999, 0, 1000), dict(transformer.config), torch.float32)
    with FlopCounterMode(display=False, custom_mapping=KERNELS) as counter:
        for _ in range(passes):
            loss(transformer, batch).mean().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "settings",
    [
        ["method=lora", "memory.activations=keep"],
        ["method=lora", "memory.activations=checkpoint"],
        ["method=lora", "memory.activations=selective"],
        ["method=lora", "memory.activations=offload"],
        ["method=lora", "memory.activations=keep", "memory.ff_chunks=4"],
        ["method=lora_ff", "memory.activations=keep"],
        ["method=lora_ff", "memory.activations=checkpoint", "memory.ff_chunks=4"],
        ["method=dora", "memory.activations=keep"],
        ["method=sft", "memory.activations=keep"],
        ["method=sft", "memory.activations=selective", "memory.ff_chunks=4"],
        ["method=sft", "memory.activations=keep", r"method.parameters='transformer_blocks\.1\.attn1'"],
        ["method=sft", "memory.activations=checkpoint", "model=tiny-2b"],
        ["model=tiny-i2v", "task=i2v", "memory.activations=checkpoint"],
        ["model=tiny-1.5", "method=lora", "memory.activations=checkpoint"],
        ["model=tiny-1.5-i2v", "task=i2v", "method=sft", "memory.activations=keep", "batch_size=1"],
    ],
    ids=" ".join,
)
def test_counted_as_torch_counts(make_job: MakeJob, settings: list[str]) -> None:
    job = make_job("batch_size=2", DEEP, *settings)
    count, shape, batch, transformer = step(job)
    assert count.training(shape).total == pytest.approx(torch_counts(job, transformer, batch), rel=1e-9)


def test_steps_with_accumulation_are_as_many_passes(make_job: MakeJob) -> None:
    job = make_job("batch_size=2", "gradient_accumulation=2", DEEP)
    count, shape, batch, transformer = step(job)
    assert 2 * count.training(shape).total == pytest.approx(torch_counts(job, transformer, batch, passes=2), rel=1e-9)


@pytest.mark.parametrize("method", ["loha", "lokr"])
def test_adapters_that_build_their_update_are_near(make_job: MakeJob, method: str) -> None:
    """Operations to build the weight update do not depend on the tokens and are not counted."""
    job = make_job("batch_size=8", DEEP, f"method={method}", "method.rank=1")
    count, shape, batch, transformer = step(job)
    assert count.training(shape).total == pytest.approx(torch_counts(job, transformer, batch), rel=0.03)


def test_a_pass_without_gradients(make_job: MakeJob) -> None:
    job = make_job("batch_size=2", DEEP)
    count, shape, batch, transformer = step(job)
    inputs = model_inputs(batch.latents, batch, dict(transformer.config), torch.float32)
    with FlopCounterMode(display=False, custom_mapping=KERNELS) as counter, torch.no_grad():
        transformer(**inputs, return_dict=False)
    assert count.forward(shape).total == pytest.approx(counter.get_total_flops(), rel=1e-9)


def test_parts_of_a_5b(make_job: MakeJob) -> None:
    """Compared with arithmetic by hand: 17,776 tokens, 42 blocks of width 3072."""
    config = make_job("model=5b", "model.weights=random").model.transformer.model_dump()
    targets = ("to_q", "to_k", "to_v", "to_out.0")
    lora = {
        f"transformer_blocks.{number}.attn1.{name}.lora_{side}.default.weight": shape
        for number in range(42)
        for name in targets
        for side, shape in (("A", (128, 3072)), ("B", (3072, 128)))
    }
    count, shape = FlopCount(config, lora, "checkpoint"), Shape(1, 13, 60, 90, 226)
    flops = count.training(shape)
    assert count.tokens(shape) == 17_776
    one_pass, scores = 42 * 2 * 17_776 * 12 * 3072**2, 42 * 2 * 17_776**2 * 3072
    assert flops.linear == pytest.approx(one_pass, rel=0.003)
    assert flops.linear_again == pytest.approx(one_pass * (1 + 8 * 128 / 12 / 3072), rel=0.003)
    assert flops.linear_backward == pytest.approx(one_pass, rel=0.01), "frozen weights have no gradients"
    assert flops.adapter == pytest.approx(3 * one_pass * 8 * 128 / 12 / 3072, rel=0.01)
    assert flops.weight_gradients == 0
    assert (flops.attention, flops.attention_backward) == (2 * scores, 4 * scores)
    assert (flops.attention_again, flops.scores_again) == (2 * scores, scores)
    assert flops.model == flops.total - flops.again
    assert f"**{flops.total / 1e15:.3f}**" in (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")


def test_parts_add_up() -> None:
    assert (Flops(linear=1.0) + Flops(linear=2.0, scores_again=4.0)).total == 7.0
