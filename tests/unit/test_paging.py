"""States of paged optimizers after a resume."""

import torch
from torch import nn

from cogvx_exp.optim.build import page_states


class Paged(torch.optim.AdamW):
    """Has a place of its own for states, as bitsandbytes' optimizers have."""

    is_paged = True

    def get_state_buffer(self, parameter: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        buffer = torch.zeros_like(parameter, dtype=dtype)
        buffer.is_paged = True  # type: ignore[attr-defined]
        return buffer


def test_loaded_states_are_paged_again() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = Paged([weight])
    loaded = {"state1": torch.arange(3, dtype=torch.uint8), "state2": torch.ones(3), "absmax1": torch.ones(1)}
    optimizer.state[weight] = dict(loaded)
    page_states(optimizer)
    for name in ("state1", "state2"):
        state = optimizer.state[weight][name]
        assert state.is_paged
        assert torch.equal(state, loaded[name])
        assert state.dtype == loaded[name].dtype
    assert optimizer.state[weight]["absmax1"] is loaded["absmax1"]


def test_other_optimizers_are_left_alone() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight])
    optimizer.state[weight] = {"exp_avg": torch.ones(3)}
    page_states(optimizer)
    assert torch.equal(optimizer.state[weight]["exp_avg"], torch.ones(3))
