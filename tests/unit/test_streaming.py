"""Host memory of streamed blocks."""

import torch
from diffusers import CogVideoXTransformer3DModel

from cogvx_exp.model.blocks import BlockStream
from cogvx_exp.model.host_memory import HostMemory, Parked
from tests.conftest import MakeJob


def test_a_block_is_freed_before_the_next_one_is_parked(make_job: MakeJob) -> None:
    """Else all blocks are in the host's memory twice, pinned and not."""
    architecture = make_job("model=tiny-5b").model.transformer.model_copy(update={"num_layers": 3})
    transformer = CogVideoXTransformer3DModel(**architecture.model_dump()).requires_grad_(False)
    one_block = sum(weight.numel() for weight in transformer.transformer_blocks[0].parameters())
    copies: list[int] = []

    class Host(HostMemory):
        parked = 0

        def park(self, tensor: torch.Tensor) -> Parked:
            self.parked += tensor.numel()
            unparked = sum(weight.numel() for weight in transformer.transformer_blocks.parameters())
            copies.append(self.parked + unparked)
            return super().park(tensor)

    BlockStream(transformer, Host(torch.device("cpu")))
    assert max(copies) <= 4 * one_block, "three blocks, and one of them twice"
