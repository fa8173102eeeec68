"""Memory of streamed blocks, on the host and on the device."""

import torch
from diffusers import CogVideoXTransformer3DModel
from torch import nn

from cogvx_exp.model.offload.host_memory import HostMemory
from cogvx_exp.model.offload.streamed_blocks import BlockStream, FlatWeights
from tests.conftest import MakeJob

CPU = torch.device("cpu")


def test_a_block_is_freed_before_the_next_one_is_copied(make_job: MakeJob) -> None:
    """Else all blocks are in the host's memory twice, pinned and not."""
    architecture = make_job("model=tiny-5b").model.transformer.model_copy(update={"num_layers": 3})
    transformer = CogVideoXTransformer3DModel(**architecture.model_dump()).requires_grad_(False)
    one_block = sum(weight.nbytes for weight in transformer.transformer_blocks[0].parameters())
    held: list[int] = []

    class Host(HostMemory):
        copied = 0

        def empty(self, nbytes: int) -> torch.Tensor:
            self.copied += nbytes
            held.append(self.copied + sum(weight.nbytes for weight in transformer.transformer_blocks.parameters()))
            return super().empty(nbytes)

    BlockStream(transformer, Host(CPU))
    assert len(held) == 3, "one buffer for each block"
    assert max(held) < 4.2 * one_block, "three blocks, and one of them twice"


def test_weights_of_several_types_lie_in_one_buffer() -> None:
    block = nn.Module()
    block.scale = nn.Parameter(torch.tensor(2.5), requires_grad=False)
    block.matrix = nn.Parameter(torch.randn(3, 5).to(torch.bfloat16).T, requires_grad=False)
    block.nothing = nn.Parameter(torch.empty(0, 4), requires_grad=False)
    block.trained = nn.Parameter(torch.randn(3))
    expected = {name: parameter.detach().clone() for name, parameter in block.named_parameters()}
    weights = FlatWeights(block, HostMemory(CPU))
    assert [parameter.numel() for parameter in block.parameters()] == [0, 0, 0, 3]
    weights.attach(weights.on_host.clone())
    for name, parameter in block.named_parameters():
        assert torch.equal(parameter, expected[name]), name
        assert parameter.dtype == expected[name].dtype
        assert parameter.data_ptr() % 64 == 0 or name in ("trained", "nothing")


def test_blocks_of_unequal_sizes_share_the_buffers(make_job: MakeJob) -> None:
    """As where only some blocks have what is trained besides an adapter."""
    architecture = make_job("model=tiny-5b").model.transformer.model_copy(update={"num_layers": 4})
    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel(**architecture.model_dump()).requires_grad_(False)
    given = {
        "hidden_states": torch.randn(1, 3, 4, 4, 6),
        "encoder_hidden_states": torch.randn(1, 226, 32),
        "timestep": torch.tensor([5]),
        "image_rotary_emb": (torch.randn(18, 16), torch.randn(18, 16)),
    }
    transformer.transformer_blocks[1].ff.requires_grad_(True)
    transformer.transformer_blocks[2].requires_grad_(True)
    transformer.enable_gradient_checkpointing()
    transformer.train()
    results = []
    for streamed in (False, True):
        if streamed:
            BlockStream(transformer, HostMemory(CPU))
        transformer.zero_grad()
        for _ in range(2):
            transformer(**given, return_dict=False)[0].square().mean().backward()
        results.append({name: weight.grad for name, weight in transformer.named_parameters() if weight.requires_grad})
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient, rtol=1e-5, atol=1e-7)
    assert len(results[0]) > 20
