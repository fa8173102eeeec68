"""Random generators keyed by purpose, independent of process and order.

The noise of training sample 1234 is the same on one process or eight, before and after a resume.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch


def keyed_seed(seed: int, *key: int | str) -> int:
    """A 63-bit seed for the purpose named by `key`."""
    # A hash and not a sum: seed 1 with sample 2 and seed 2 with sample 1 must differ.
    digest = hashlib.blake2b(repr((seed, *key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # torch seeds are signed 64-bit


def generator(seed: int, *key: int | str) -> torch.Generator:
    """A CPU generator for the purpose named by `key`, e.g. (sample number, "noise")."""
    # On the CPU: a GPU's generator draws other numbers, so a run would depend on its device.
    return torch.Generator().manual_seed(keyed_seed(seed, *key))


@dataclass(frozen=True)
class SampleRandomness:
    """Random generators of one training sample, keyed by its number and purpose."""

    seed: int
    sample: int

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator for one purpose."""
        return generator(self.seed, self.sample, purpose)

    def uniform(self, purpose: str) -> float:
        """A uniform number in [0, 1)."""
        return torch.rand((), generator=self.generator(purpose)).item()

    def normal(self, shape: Sequence[int], purpose: str) -> torch.Tensor:
        """Standard normal values, float32."""
        return torch.randn(tuple(shape), generator=self.generator(purpose))
