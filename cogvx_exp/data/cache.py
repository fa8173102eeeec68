"""Encoded clips and captions on disk.

An entry is one safetensors file named by the fingerprint of everything that shaped it: the video's
content, its frames and its bucket, the encoder's weights and type. A changed setting makes another
name, so nothing stale is ever read. An entry is written beside and renamed, so it is whole or absent;
which entries a dataset needs follows from the dataset, so there is no index that could be out of step.

One file a clip, and not shards of many: a shard could only be whole when all its clips are, and then a
kill would lose more than one clip; processes would have to agree on who writes which shard; and a
random read of one clip (0.5 MiB for 49x480x720 in bfloat16) costs one open either way.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from cogvx_exp.data.faults import ClipError
from cogvx_exp.files import fingerprint, whole_file

FORMAT = 2
"""Raise it when the content of an entry changes its meaning."""


class TensorCache:
    """A folder of named tensors."""

    def __init__(self, folder: Path):
        self.folder = folder

    def key(self, made_from: dict[str, Any]) -> str:
        """The name of the entry that is made from the given values."""
        return fingerprint({"format": FORMAT, **made_from})

    def has(self, key: str) -> bool:
        """Whether the entry exists."""
        return self._path(key).exists()

    def load(self, key: str) -> torch.Tensor:
        """Reads an entry."""
        with safe_open(self._path(key), framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor("tensor")
        return tensor

    def save(self, key: str, tensor: torch.Tensor) -> None:
        """Writes an entry.

        Raises:
            ClipError: the tensor has values that are not finite.
        """
        if not torch.isfinite(tensor).all():
            raise ClipError("encoding gave values that are not finite", "try model.dtype=float32, or take it out")
        with whole_file(self._path(key)) as beside:
            save_file({"tensor": tensor.detach().cpu().contiguous()}, beside)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"
