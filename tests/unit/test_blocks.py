"""However the blocks are run, the loss and the gradients are the same."""

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from torch.utils._python_dispatch import TorchDispatchMode

from cogvx_exp.config.schema import Memory
from cogvx_exp.model import blocks
from cogvx_exp.model.adapt import make_trainable, trainable_parameters
from cogvx_exp.model.blocks import arrange_blocks
from cogvx_exp.model.host_memory import HostMemory, Parked
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
    """Counts what is parked and what comes back."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.parked, self.taken, self.late = 0, 0, 0

    def park(self, tensor: torch.Tensor) -> Parked:
        self.parked += 1
        return super().park(tensor)

    def take(self, parked: Parked) -> torch.Tensor:
        self.taken += 1
        self.late += parked.on_device is None
        return super().take(parked)


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
    arrange_blocks(transformer, Memory(**{**PLAIN, "preflight": False, **memory}), torch.device("cpu"), host)
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
    if memory["activations"] == "offload" or memory.get("stream_blocks"):
        assert host.parked > 0
        assert host.late < host.taken / 2, "most come ahead of need"
    else:
        assert host.parked == 0


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
    arrange_blocks(transformer, memory, torch.device("cpu"))
    after = sum(weight.numel() for weight in transformer.transformer_blocks.parameters())
    assert after < before / 2, "only the adapter stays"
