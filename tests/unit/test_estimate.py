"""Predicted memory against what real tensors take."""

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from torch.profiler import ProfilerActivity, profile

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.diffusion.batch import Batch
from cogvx_exp.diffusion.denoise import denoising_loss
from cogvx_exp.estimate.advice import advise
from cogvx_exp.estimate.prediction import Prediction, predict
from cogvx_exp.estimate.splitting import split_over
from cogvx_exp.estimate.trace.training_step import StepBytes, step_bytes, trace_steps
from cogvx_exp.model.adapt import make_trainable, trainable_parameters
from cogvx_exp.model.attention.backends import set_attention
from cogvx_exp.model.device import Compute, resolve_dtype
from cogvx_exp.model.offload import blocks
from cogvx_exp.model.offload.blocks import apply_memory_options
from cogvx_exp.model.positions import rotary_positions
from cogvx_exp.optim.build import build_optimizer
from tests.conftest import MakeJob

SHAPE = Bucket(17, 96, 128)

WIDE = [
    "model.transformer.num_attention_heads=8",
    "model.transformer.attention_head_dim=32",
    "model.transformer.num_layers=4",
    "validation=none",
]


@pytest.mark.parametrize(
    "settings",
    [
        ["memory.activations=keep", "model.dtype=bfloat16"],
        ["memory.activations=checkpoint"],
        ["memory.activations=checkpoint", "batch_size=3", "model.dtype=bfloat16"],
        ["memory.activations=selective", "memory.ff_chunks=2"],
        ["method=sft", "memory.activations=keep", "model.dtype=bfloat16", "optim=adamw8bit"],
        ["method=sft", "memory.activations=checkpoint", "model=tiny-2b", "ema_decay=0.9"],
        ["method=lora_ff", "model=tiny-1.5", "memory.activations=checkpoint"],
    ],
    ids=" ".join,
)
def test_prediction_is_near_what_the_allocator_gives(make_job: MakeJob, settings: list[str]) -> None:
    model = [text for text in settings if text.startswith("model=")]
    job = make_job(*model, *WIDE, *[text for text in settings if text not in model])
    predicted = trace_steps(job, SHAPE, {SHAPE}, "cpu").peak.total()
    assert predicted == pytest.approx(allocated(job), rel=0.1)


def allocated(job: TrainJob) -> int:
    """Peak bytes of a real second training step: what is there before it, and what torch's allocator adds."""
    compute = Compute(torch.device("cpu"), resolve_dtype(job.model, "cpu"))
    transformer = CogVideoXTransformer3DModel(**job.model.transformer.model_dump()).to(compute.dtype)
    transformer.requires_grad_(False)
    make_trainable(transformer, job.method, 0)
    apply_memory_options(transformer.train(), job.memory, compute.device)
    set_attention(transformer, job.attention)
    parameters = trainable_parameters(transformer)
    average = [parameter.detach().clone() for parameter in parameters.values()] if job.ema_decay else []
    optimizer = build_optimizer(parameters, job.optim, compute.device)
    loss = denoising_loss(torch.linspace(0.999, 0, 1000), dict(transformer.config), compute.dtype)
    for parameter in parameters.values():  # the first optimizer step makes its states
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    states = [value for state in optimizer.state.values() for value in state.values()]
    tensors = [*transformer.parameters(), *average, *(value for value in states if isinstance(value, torch.Tensor))]
    rotary_positions(dict(transformer.config), latent_shape(job), compute.device)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        with compute.autocast():
            value = loss(transformer, batch(job)).mean()
        value.backward()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        highest = max(highest, now)
    return highest + sum(tensor.nbytes for tensor in tensors)


def latent_shape(job: TrainJob) -> tuple[int, int, int]:
    frames = (SHAPE.num_frames - 1) // 4 + 1
    return frames + -frames % (job.model.transformer.patch_size_t or 1), SHAPE.height // 8, SHAPE.width // 8


def batch(job: TrainJob) -> Batch:
    frames, height, width = latent_shape(job)
    latents = torch.randn(job.batch_size, frames, job.model.vae.latent_channels, height, width)
    texts = torch.randn(job.batch_size, 226, job.model.transformer.text_embed_dim)
    return Batch(latents, torch.randn_like(latents), torch.full((job.batch_size,), 500), texts, [], [])


@pytest.mark.parametrize(
    "settings",
    [
        ["memory.activations=offload", "memory.stream_blocks=true"],
        ["method=sft", "optim=cpu_offload"],
        ["quant=nf4", "memory.activations=selective"],
    ],
    ids=" ".join,
)
def test_two_depths_determine_the_whole(make_job: MakeJob, settings: list[str]) -> None:
    job = make_job("model.transformer.num_layers=11", "model.dtype=bfloat16", *WIDE[:2], *settings)
    extended, whole = (way(job, SHAPE, {SHAPE}, "cuda") for way in (step_bytes, trace_steps))
    for moment in ("resident", "forward", "backward", "between", "sampling", "gradients", "host"):
        assert getattr(extended, moment).total() == pytest.approx(getattr(whole, moment).total(), rel=0.005), moment


def test_settings_move_the_prediction_as_they_should(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "WORTH_PARKING", 1)

    def of(*settings: str) -> StepBytes:
        return trace_steps(make_job(*WIDE, "model.dtype=bfloat16", *settings), SHAPE, {SHAPE}, "cuda")

    plain = of("memory.activations=checkpoint")
    trained = plain.resident["trained weights"]
    assert plain.between["optimizer"] == pytest.approx(2 * trained, rel=0.01)
    assert plain.gradients.total() == pytest.approx(trained, rel=0.01)
    keep, offloaded = of("memory.activations=keep"), of("memory.activations=offload")
    assert offloaded.peak.total() < plain.peak.total() < keep.peak.total()
    assert of("memory.activations=checkpoint", "memory.norms=float32").peak.total() > plain.peak.total()
    streamed = of("memory.activations=checkpoint", "memory.stream_blocks=true")
    assert streamed.resident["weights"] < plain.resident["weights"] / 2
    blocks_on_host = streamed.host["streamed blocks"]
    assert blocks_on_host + streamed.resident["weights"] == pytest.approx(plain.resident["weights"], rel=0.02)
    in_buffers = streamed.between["weights"] - streamed.resident["weights"]
    assert in_buffers == pytest.approx(blocks_on_host * 2 / 4, rel=0.02), "two of four blocks"
    weights = [of("memory.activations=checkpoint", f"quant={quant}").resident["weights"] for quant in ("nf4", "int8")]
    assert weights[0] < weights[1] < plain.resident["weights"]
    released = of("method=sft", "optim=adamw", "optim.release_gradients=true", "max_grad_norm=null")
    assert released.gradients.total() == 0
    host = of("method=sft", "optim=cpu_offload")
    assert host.between["optimizer"] == 0
    assert host.host["optimizer states"] == pytest.approx(2 * host.resident["trained weights"], rel=0.01)


def test_advice_keeps_only_what_is_needed(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "WORTH_PARKING", 1)
    overrides = [*WIDE, "memory.activations=keep", "model.dtype=bfloat16"]
    job = make_job(*overrides)
    before = predict(job, {SHAPE})

    def recompose(more: list[str]) -> TrainJob:
        return make_job(*overrides, *more)

    checkpointed = predict(recompose(["memory.activations=offload"]), {SHAPE})
    budget = (before.phases["before_validation"] + checkpointed.phases["before_validation"]) / 2 + 0.7

    def predicted(job: TrainJob) -> Prediction:
        found = predict(job, {SHAPE})  # the text encoder alone would be the peak of so small a model
        return found.__class__(**{**vars(found), "phases": {"step": found.phases["before_validation"]}})

    advice = advise(job, predicted(job), budget, recompose, predicted)
    assert advice.fits
    assert advice.overrides == ["memory.activations=offload"]


def test_split_states_are_shared(make_job: MakeJob) -> None:
    """Compared with counted bytes: tests/integration/test_cuda_split_memory.py."""
    job = make_job(*WIDE, "method=sft")
    whole = trace_steps(job, SHAPE, {SHAPE}, "cuda")
    trained = whole.resident["trained weights"]
    shared = split_over(whole, make_job(*WIDE, "method=sft", "distributed=zero2", "distributed.processes=4"))
    assert shared.between["optimizer"] == whole.between["optimizer"] // 4
    assert shared.between["trained weights"] == pytest.approx(trained + trained / 4, rel=0.01), "and float32 copies"
    everything = split_over(whole, make_job(*WIDE, "method=sft", "distributed=fsdp"))
    assert everything.resident["trained weights"] == trained // 2
    host = split_over(whole, make_job(*WIDE, "method=sft", "distributed=zero2_offload"))
    assert host.between["optimizer"] == 0
    assert host.between["trained weights"] == trained
    adapter = trace_steps(make_job(*WIDE), SHAPE, {SHAPE}, "cuda")
    replicated = split_over(adapter, make_job(*WIDE, "distributed=fsdp"))
    assert replicated.resident["trained weights"] == adapter.resident["trained weights"]
    assert replicated.resident["weights"] == adapter.resident["weights"] // 2


def test_what_was_split_is_sampled_from_whole(make_job: MakeJob) -> None:
    wide = [setting for setting in WIDE if setting != "validation=none"]
    settings = [*wide, "method=sft", "model.dtype=bfloat16", "ema_decay=0.9"]
    alone, split = (predict(make_job(*settings, *more), {SHAPE}) for more in ([], ["distributed=fsdp"]))
    assert split.phases["after_testing"] == alone.phases["after_testing"]
    assert split.phases["before_validation"] < alone.phases["before_validation"]


def test_several_processes_leave_room_for_nccl(make_job: MakeJob) -> None:
    alone, together = (predict(make_job(*WIDE, *more), {SHAPE}) for more in ([], ["distributed=ddp"]))
    assert together.peak == alone.peak
    assert alone.fits(alone.peak + 0.71)
    assert not together.fits(alone.peak + 1.19)
    assert together.fits(alone.peak + 1.21)
