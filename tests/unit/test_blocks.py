"""However the blocks are run, the loss and the gradients are the same."""

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from torch.utils._python_dispatch import TorchDispatchMode

from cogvx_exp.config.schema import Memory
from cogvx_exp.model.adapt import make_trainable, trainable_parameters
from cogvx_exp.model.offload import blocks
from cogvx_exp.model.offload.blocks import apply_memory_options
from cogvx_exp.model.offload.host_memory import HostMemory, OffloadedTensor
from tests.conftest import MakeJob

PLAIN = {
    "stream_blocks": False,
    "ff_chunks": 1,
    "vae_slicing": True,
    "vae_tiling": True,
    "budget": None,
    "norms": "model",
}


class CountingHost(HostMemory):
    """Counts what is offloaded, what comes back, and what of that was not prefetched."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.offloaded, self.fetched, self.late, self.blocks_copied = 0, 0, 0, 0

    def offload(self, tensor: torch.Tensor) -> OffloadedTensor:
        self.offloaded += 1
        return super().offload(tensor)

    def fetch(self, offloaded: OffloadedTensor) -> torch.Tensor:
        self.fetched += 1
        self.late += offloaded.on_device is None
        return super().fetch(offloaded)

    def copy(self, target: torch.Tensor, source: torch.Tensor, after: torch.cuda.Event | None) -> None:
        self.blocks_copied += source.dtype == torch.uint8
        super().copy(target, source, after)


def step(make_job: MakeJob, method: str, **memory: object) -> tuple[dict[str, torch.Tensor], CountingHost]:
    """Gradients of two identical forward and backward passes after a sampling pass."""
    torch.manual_seed(0)
    job = make_job("model=tiny-5b", f"method={method}")
    config = job.model.transformer.model_copy(update={"num_layers": 3}).model_dump()
    transformer = CogVideoXTransformer3DModel(**config).requires_grad_(False)
    make_trainable(transformer, job.method, 0)
    with torch.no_grad():
        for parameter in trainable_parameters(transformer).values():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    host = CountingHost()
    apply_memory_options(transformer, Memory(**{**PLAIN, "preflight": False, **memory}), torch.device("cpu"), host)
    inputs = {
        "hidden_states": torch.randn(2, 3, 4, 4, 6),
        "encoder_hidden_states": torch.randn(2, 226, 32),
        "timestep": torch.tensor([5, 700]),
        "image_rotary_emb": (torch.randn(18, 16), torch.randn(18, 16)),
    }
    with torch.no_grad():
        sampled = transformer(**inputs, return_dict=False)[0]
    transformer.train()
    for _ in range(2):
        output = transformer(**inputs, return_dict=False)[0]
        output.square().mean().backward()
    found = {name: parameter.grad for name, parameter in trainable_parameters(transformer).items()}
    return {"sampled": sampled, "output": output.detach(), **found}, host


@pytest.mark.parametrize(
    ("method", "memory"),
    [
        ("lora", {"activations": "checkpoint"}),
        ("lora", {"activations": "selective"}),
        ("lora", {"activations": "offload"}),
        ("lora", {"activations": "keep", "ff_chunks": 3}),
        ("lora", {"activations": "checkpoint", "stream_blocks": True}),
        ("lora", {"activations": "selective", "ff_chunks": 2}),
        ("lora_ff", {"activations": "offload", "stream_blocks": True, "ff_chunks": 2}),
        ("sft", {"activations": "selective"}),
        ("sft", {"activations": "offload", "ff_chunks": 2}),
    ],
)
def test_gradients_do_not_depend_on_how_blocks_are_run(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, method: str, memory: dict
) -> None:
    monkeypatch.setattr(blocks, "WORTH_PARKING", 1)
    expected, _ = step(make_job, method, activations="keep")
    found, host = step(make_job, method, **memory)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)
    if memory["activations"] == "offload":
        assert host.offloaded > 0
        assert host.late < host.fetched / 2, "most come ahead of need"
    else:
        assert host.offloaded == 0
    # Two of three blocks are still on the device when a pass begins in which they are the first two.
    sampling, forward, backward = 3, 2 + 1, 1 + 1
    assert host.blocks_copied == (sampling + forward + backward if memory.get("stream_blocks") else 0)


def test_attention_is_computed_once_with_selective(make_job: MakeJob) -> None:
    calls = []

    class Attention(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function in blocks.ATTENTION:
                calls.append(function)
            return function(*args, **(kwargs or {}))

    with Attention():
        step(make_job, "lora", activations="selective")
    assert len(calls) == 3 + 2 * 3, "once for each of three blocks in each of three forward passes"


def test_streamed_weights_are_gone_between_uses(make_job: MakeJob) -> None:
    job = make_job("model=tiny-5b")
    transformer = CogVideoXTransformer3DModel(**job.model.transformer.model_dump()).requires_grad_(False)
    make_trainable(transformer, job.method, 0)
    before = sum(weight.numel() for weight in transformer.transformer_blocks.parameters())
    memory = Memory(**PLAIN | {"preflight": False, "activations": "checkpoint", "stream_blocks": True})
    apply_memory_options(transformer, memory, torch.device("cpu"))
    after = sum(weight.numel() for weight in transformer.transformer_blocks.parameters())
    assert after < before / 2, "only the adapter stays"
