"""Encoded clips and captions on disk.

An entry is one safetensors file named by the fingerprint of everything that shaped it: the video's
content, its frames and its bucket, the encoder's weights and type. A changed setting makes another
name, so nothing stale is ever read. An entry is written beside and renamed, so it is whole or absent.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from cogvx_exp.errors import UserError
from cogvx_exp.files import fingerprint, whole_file

FORMAT = 1
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
        return load_file(self._path(key))["tensor"]

    def save(self, key: str, tensor: torch.Tensor, origin: str) -> None:
        """Writes an entry; `origin` says in an error what it was made from.

        Raises:
            UserError: the tensor has values that are not finite.
        """
        if not torch.isfinite(tensor).all():
            raise UserError(f"{origin}: encoding gave values that are not finite; try model.dtype=float32")
        with whole_file(self._path(key)) as beside:
            save_file({"tensor": tensor.detach().cpu().contiguous()}, beside)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"
