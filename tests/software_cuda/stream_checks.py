"""The product's stream code on the software device, with its race check. Each wait in it is needed by one of these.

`mutants.py` takes the waits out one by one and expects a failure.
"""

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from torch import nn

from cogvx_exp.config.schema import Memory
from cogvx_exp.model import blocks
from cogvx_exp.model.adapt import trainable_parameters
from cogvx_exp.model.blocks import arrange_blocks
from cogvx_exp.model.host_memory import HostMemory
from cogvx_exp.training.offloaded import OffloadedOptimizer

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


def test_a_parked_tensor_comes_back_as_it_was() -> None:
    host = HostMemory(GPU)
    made = torch.arange(1000, device=GPU) * 2.0
    parked = host.park(made)
    del made  # its memory may be used again at once
    torch.zeros(1000, device=GPU)
    host.fetch(parked)
    back = host.take(parked)
    assert torch.equal(back * 1, torch.arange(1000, device=GPU) * 2.0)
    del back


def gradients(device: torch.device, **memory: object) -> dict[str, torch.Tensor]:
    """Of two passes of a model of three blocks, after a pass without gradients."""
    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, num_layers=3, text_embed_dim=32,
        time_embed_dim=8, sample_width=8, sample_height=8, sample_frames=9, max_text_seq_length=6,
    )  # fmt: skip
    transformer.requires_grad_(False)
    for name, parameter in transformer.named_parameters():
        parameter.requires_grad_(name.endswith("to_q.weight"))
    given = {"hidden_states": torch.randn(1, 3, 4, 8, 8), "encoder_hidden_states": torch.randn(1, 6, 32)}
    given = {name: tensor.to(device) for name, tensor in given.items()} | {"timestep": torch.tensor([7], device=device)}
    if not memory.get("stream_blocks"):
        transformer.to(device)
    for name, part in transformer.named_children():
        if name != "transformer_blocks":
            part.to(device)
    arrange_blocks(transformer, Memory(**{**MEMORY, **memory}), device)
    with torch.no_grad():
        transformer(**given, return_dict=False)
    transformer.train()
    for _ in range(2):
        transformer(**given, return_dict=False)[0].square().mean().backward()
    return {name: parameter.grad.cpu() for name, parameter in trainable_parameters(transformer).items()}


@pytest.mark.parametrize("activations", ["checkpoint", "offload"])
@pytest.mark.parametrize("stream_blocks", [False, True])
def test_gradients_are_those_of_the_cpu(activations: str, stream_blocks: bool) -> None:
    expected = gradients(torch.device("cpu"), activations="checkpoint")
    found = gradients(GPU, activations=activations, stream_blocks=stream_blocks)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


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
