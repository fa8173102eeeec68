"""Batches reach the device in order, and no more are read than a run needs."""

from collections.abc import Iterator

import pytest
import torch

from cogvx_exp.core.errors import UserError
from cogvx_exp.diffusion.batch import Batch
from cogvx_exp.loading import prefetch
from cogvx_exp.loading.prefetch import on_device
from cogvx_exp.model.offload.host_memory import HostMemory


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The CPU; or a GPU in name, whose copies are made at once (`tests/software_cuda/stream_checks.py` has streams)."""
    monkeypatch.setattr(prefetch, "HostMemory", lambda device: HostMemory(torch.device("cpu")))
    return torch.device(request.param)


class Source:
    """Batches of a run; notes how many were read."""

    def __init__(self, broken: int | None = None):
        self.read, self.broken = 0, broken

    def __iter__(self) -> Iterator[Batch]:
        while True:
            if self.read == self.broken:
                raise UserError("a damaged entry")
            self.read += 1
            yield batch_of(self.read)


def batch_of(number: int) -> Batch:
    value = torch.full((2, 3), float(number))
    extras = {"image": value * 3, "image_mask": torch.tensor([True])}
    return Batch(value, -value, torch.tensor([number]), value * 2, [number], [f"clip {number}"], extras)


def test_batches_are_those_of_the_source_and_as_many_as_asked_for(device: torch.device) -> None:
    source = Source()
    batches = list(on_device(iter(source), device, 5))
    assert source.read == 5
    assert [batch.samples for batch in batches] == [[1], [2], [3], [4], [5]]
    for number, batch in enumerate(batches, 1):
        expected = batch_of(number)
        for name in ("latents", "noise", "timesteps", "prompt_embeds"):
            assert torch.equal(getattr(batch, name), getattr(expected, name))
        assert all(torch.equal(batch.extras[name], tensor) for name, tensor in expected.extras.items())


def test_an_error_is_raised_when_its_batch_is_due(device: torch.device) -> None:
    batches = on_device(iter(Source(broken=2)), device, 5)
    assert [next(batches).samples, next(batches).samples] == [[1], [2]]
    with pytest.raises(UserError, match="damaged"):
        next(batches)
