"""Calls that repeat an earlier one are counted as if they had been traced."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from cogvx_exp.data.buckets import Bucket
from cogvx_exp.estimate.trace import encoders
from cogvx_exp.estimate.trace.fake_models import fake_tensors, materialize
from cogvx_exp.estimate.trace.repeats import Repeats
from tests.conftest import MakeJob


class Block(nn.Module):
    """Returns what it keeps for its next call, like the autoencoder's parts."""

    def __init__(self, *, view: bool = False):
        super().__init__()
        self.first, self.second, self.view, self.calls = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 3, 3, padding=2), view, 0

    def forward(self, x: torch.Tensor, kept: dict[str, torch.Tensor] | None = None) -> tuple[torch.Tensor, dict]:
        self.calls += 1
        x = self.second(self.first(x).sin().cos())
        return x + kept["row"] if kept else x, {"row": x[:, :, :1] if self.view else x[:, :, :1].clone()}


def traced(block: Block, repeats: type | None) -> tuple[list[int], Counter[str], float, int]:
    """Allocated bytes after each call and the peak, by kind; operations; calls that were traced."""
    with torch.device("meta"):
        block = block.to("meta")
    with fake_tensors() as tracker, torch.no_grad():
        materialize(block, tracker, "block")
        if repeats:
            repeats(block, tracker)
        kept, results, allocated = None, [], []
        for size in (32, 32, 32, 48, 48):
            result, kept = block(torch.empty(1, 3, size, 32), kept)
            results.append(result)
            allocated.append(tracker.allocated)
        return [*allocated, tracker.peak], tracker.at_peak, tracker.convolved, block.calls


def test_as_many_bytes_and_operations_as_if_each_was_traced() -> None:
    *expected, calls = traced(Block(), None)
    *found, fewer = traced(Block(), Repeats)
    assert found == expected
    assert (calls, fewer) == (5, 3), "without something kept, with it, and of another size"


def test_a_result_that_shares_memory_is_always_traced() -> None:
    *expected, calls = traced(Block(view=True), None)
    *found, as_many = traced(Block(view=True), Repeats)
    assert found == expected
    assert as_many == calls


@pytest.mark.parametrize("what", ["encode", "decode"])
def test_the_autoencoder_takes_the_same(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, what: Any) -> None:
    job = make_job("model=tiny-5b", "memory.vae_slicing=true")
    passes = []
    for repeats in (Repeats, lambda part, tracker: None):
        monkeypatch.setattr(encoders, "Repeats", repeats)
        encoders._vae_pass.cache_clear()
        passes.append(encoders.vae_pass(job.model.vae, job.memory, torch.bfloat16, Bucket(17, 96, 144), 3, what))
    encoders._vae_pass.cache_clear()
    assert passes[0] == passes[1]
