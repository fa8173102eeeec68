"""The product's stream code on the software device, with its race check. Each wait in it is needed by one of these.

`mutants.py` takes the waits out one by one and expects a failure.
"""

import gc
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cogvx_exp.config.schema import Memory
from cogvx_exp.diffusion.batch import Batch
from cogvx_exp.loading.prefetch import on_device
from cogvx_exp.model.adapt import trainable_parameters
from cogvx_exp.model.offload import blocks
from cogvx_exp.model.offload.blocks import apply_memory_options
from cogvx_exp.model.offload.host_memory import HostMemory
from cogvx_exp.model.offload.module import free_weights, on_host
from cogvx_exp.model.offload.streamed_blocks import ALIGNMENT, DEVICE_BUFFERS
from cogvx_exp.optim.offloaded import OffloadedOptimizer

GPU = torch.device("cuda")
MEMORY = {
    "ff_chunks": 1,
    "vae_slicing": True,
    "vae_tiling": True,
    "budget": None,
    "norms": "model",
    "preflight": False,
    "activations": "checkpoint",
    "stream_blocks": False,
}


@pytest.fixture(autouse=True)
def no_race(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(blocks, "WORTH_PARKING", 1)
    device = torch._C._software_cuda
    device.clear_races()
    yield
    torch.cuda.synchronize()
    assert device.races() == []
    device.clear_races()


def test_an_offloaded_tensor_comes_back_as_it_was() -> None:
    host = HostMemory(GPU)
    made = torch.arange(1000, device=GPU) * 2.0
    offloaded = host.offload(made)
    host.release(offloaded)
    del made  # its memory may be used again at once
    torch.zeros(1000, device=GPU)
    host.prefetch(offloaded)
    back = host.fetch(offloaded)
    assert torch.equal(back * 1, torch.arange(1000, device=GPU) * 2.0)
    del back


def small_model(num_layers: int = 3) -> tuple[CogVideoXTransformer3DModel, dict[str, torch.Tensor]]:
    """A model that trains a part of each block, and inputs for it, on the CPU."""
    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, num_layers=num_layers,
        text_embed_dim=32, time_embed_dim=8, sample_width=8, sample_height=8, sample_frames=9, max_text_seq_length=6,
    )  # fmt: skip
    transformer.requires_grad_(False)
    for name, parameter in transformer.named_parameters():
        parameter.requires_grad_(name.endswith("to_q.weight"))
    given = {"hidden_states": torch.randn(1, 3, 4, 8, 8), "encoder_hidden_states": torch.randn(1, 6, 32)}
    return transformer, given | {"timestep": torch.tensor([7])}


def arranged(transformer: CogVideoXTransformer3DModel, device: torch.device, **memory: object) -> None:
    """Puts a model on a device as a run does."""
    for name, part in transformer.named_children():
        if name != "transformer_blocks" or not memory.get("stream_blocks"):
            part.to(device)
    apply_memory_options(transformer, Memory(**{**MEMORY, **memory}), device)


def gradients(device: torch.device, **memory: object) -> dict[str, torch.Tensor]:
    """Of three passes, between and before which samples are made, held-out losses measured, and videos decoded."""
    transformer, given = small_model()
    given = {name: tensor.to(device) for name, tensor in given.items()}
    arranged(transformer, device, **memory)

    def sample() -> torch.Tensor:
        with torch.no_grad():
            return transformer(**given, return_dict=False)[0]

    sample()
    transformer.train()
    samples = []
    for number in range(3):
        transformer(**given, return_dict=False)[0].square().mean().backward()
        if number == 1:
            samples = [sample(), sample()]
            with on_host(transformer, device) if device.type == "cuda" else nullcontext():
                assert device.type == "cpu" or held(transformer) == 0
    assert all(parameter.device.type == device.type for parameter in transformer.parameters())
    found = {name: parameter.grad.cpu() for name, parameter in trainable_parameters(transformer).items()}
    return found | {"first sample": samples[0].cpu(), "second sample": samples[1].cpu()}


def held(transformer: CogVideoXTransformer3DModel) -> int:
    """Bytes of the device that a model's weights take."""
    tensors = [*transformer.parameters(), *transformer.buffers()]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors if tensor.is_cuda)


@pytest.mark.parametrize("activations", ["checkpoint", "offload"])
@pytest.mark.parametrize("stream_blocks", [False, True])
@pytest.mark.parametrize("ff_chunks", [1, 2])
def test_gradients_are_those_of_the_cpu(activations: str, stream_blocks: bool, ff_chunks: int) -> None:
    expected = gradients(torch.device("cpu"), activations="checkpoint")
    found = gradients(GPU, activations=activations, stream_blocks=stream_blocks, ff_chunks=ff_chunks)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def peaks_with_and_without_streaming(num_layers: int) -> tuple[int, int]:
    """Most bytes of the device in passes of a model, what is resident otherwise than the blocks left out."""
    peaks = []
    for stream_blocks in (True, False):
        transformer, given = small_model(num_layers)
        given = {name: tensor.to(GPU) for name, tensor in given.items()}
        transformer.transformer_blocks.requires_grad_(False)
        transformer.patch_embed.requires_grad_(True)
        for name, part in transformer.named_children():
            if name != "transformer_blocks":
                part.to(GPU)
        gc.collect()  # models of other tests, whose hooks refer to them
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        arranged(transformer, GPU, stream_blocks=stream_blocks)
        for _ in range(2):
            transformer(**given, return_dict=False)[0].square().mean().backward()
            with torch.no_grad():
                transformer(**given, return_dict=False)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    return peaks[0], peaks[1]


def test_two_blocks_are_on_the_device_however_many_there_are() -> None:
    sizes = [weight.nbytes for weight in small_model(1)[0].transformer_blocks.parameters()]
    on_their_own, in_a_buffer = (sum(-(-size // unit) * unit for size in sizes) for unit in (512, ALIGNMENT))
    for num_layers in (4, 9):
        streamed, whole = peaks_with_and_without_streaming(num_layers)
        saved = num_layers * on_their_own - DEVICE_BUFFERS * in_a_buffer
        assert whole - streamed == pytest.approx(saved, abs=on_their_own // 10)


def test_no_memory_of_the_device_is_left_when_a_streamed_model_is_freed() -> None:
    gc.collect()
    library = torch._C._software_cuda
    before, pinned = torch.cuda.memory_allocated(), library.usage(0)["pinned"]
    transformer, given = small_model()
    arranged(transformer, GPU, stream_blocks=True)
    with torch.no_grad():
        transformer(**{name: tensor.to(GPU) for name, tensor in given.items()}, return_dict=False)
    with on_host(transformer, GPU):
        assert torch.cuda.memory_allocated() == before
    assert library.usage(0)["pinned"] > pinned
    with torch.no_grad():  # a pass that breaks off: the second block is still being copied
        shapes = (1, 4, 32), (1, 6, 32), (1, 8)
        transformer.transformer_blocks[0](*(torch.ones(shape, device=GPU) for shape in shapes))
    free_weights(transformer, GPU)
    torch.cuda.synchronize()  # what is being copied is not free yet
    assert torch.cuda.memory_allocated() == before
    assert library.usage(0)["pinned"] == pinned


def test_offloaded_inputs_of_blocks_are_not_on_the_device() -> None:
    kept = []
    for activations in ("checkpoint", "offload"):
        transformer, given = small_model(9)
        transformer.train()
        arranged(transformer, GPU, activations=activations)
        given = {name: tensor.to(GPU) for name, tensor in given.items()}
        gc.collect()
        before = torch.cuda.memory_allocated()
        output = transformer(**given, return_dict=False)[0]
        kept.append(torch.cuda.memory_allocated() - before)
        output.sum().backward()
        del transformer, output
    tokens, width = 3 * 4 * 4, 32
    assert kept[0] - kept[1] >= 8 * tokens * width * 4, "of all blocks but the first, whose input is needed elsewhere"


def test_memory_of_an_offloaded_activation_is_used_again_at_once() -> None:
    """Freed after `record_stream`, it would stay until the host has seen that the copy is complete."""
    gc.collect()
    host = HostMemory(GPU)
    before = torch.cuda.memory_allocated()
    kept = [host.offload(torch.ones(1 << 10, device=GPU)) for _ in range(3)]
    for offloaded in kept:
        host.release(offloaded)
    assert torch.cuda.memory_allocated() == before
    for offloaded in kept:
        assert host.fetch(offloaded).sum() == 1 << 10
    assert torch.cuda.memory_allocated() == before


@pytest.mark.parametrize("offload_gradients", [False, True])
def test_a_step_on_the_host_is_that_of_the_cpu(offload_gradients: bool) -> None:
    weights = []
    for device in (torch.device("cpu"), GPU):
        torch.manual_seed(0)
        net = nn.Linear(80, 80).to(device)
        x = torch.ones(2, 80, device=device)
        if device.type == "cpu":
            optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, fused=True)
        else:
            optimizer = OffloadedOptimizer(
                net.parameters(),
                optimizer_class=torch.optim.AdamW,
                offload_gradients=offload_gradients,
                lr=0.1,
                fused=True,
            )
        for _ in range(3):
            net(x).square().mean().backward()
            if device.type == "cpu":
                nn.utils.clip_grad_norm_(net.parameters(), 0.01)
            else:
                optimizer.clip_gradients(0.01)
            optimizer.step()
            optimizer.zero_grad()
        weights.append(net.weight.detach().cpu())
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-5)


class Copies(TorchDispatchMode):
    """Notes the stream of each copy to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.streams: list[torch.cuda.Stream] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.copy_.default and args[0].is_cuda and not args[1].is_cuda:
            self.streams.append(torch.cuda.current_stream(GPU))
        return function(*args, **(kwargs or {}))


def pinned_batches(count: int) -> list[Batch]:
    values = [torch.full((1 << 10,), float(number)) for number in range(count)]
    batches = [Batch(value, -value, value.long(), value * 2, [], [], {"image": value * 3}) for value in values]
    return [batch.pin_memory() for batch in batches]


def test_a_batch_is_copied_before_the_one_in_front_of_it_is_trained_on() -> None:
    batches, tensors = pinned_batches(4), 5
    waits = torch._C._software_cuda.synchronizations()
    sums = []
    with Copies() as copies:
        for number, batch in enumerate(on_device(iter(batches), GPU, 4), 1):
            assert len(copies.streams) == tensors * min(number + 1, 4)
            sums.append(batch.latents + batch.noise + batch.timesteps + batch.prompt_embeds + batch.extras["image"])
    assert torch.cuda.current_stream(GPU) not in copies.streams
    assert torch._C._software_cuda.synchronizations() == waits
    for batch, found in zip(batches, sums, strict=True):
        assert torch.equal(found.cpu(), batch.latents * 6)


def test_memory_of_a_batch_that_is_not_trained_on_can_be_used_again() -> None:
    batches = on_device(iter(pinned_batches(4)), GPU, 4)
    next(batches)
    batches.close()
    for _ in range(8):
        torch.zeros(1 << 10, device=GPU)
