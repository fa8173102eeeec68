"""Encoded clips and captions on disk.

An entry is one safetensors file named by the fingerprint of everything that shaped it: the video's
content, its frames and its bucket, the encoder's weights and type. A changed setting makes another
name, so nothing stale is ever read. An entry is written beside and renamed, so it is whole or absent;
which entries a dataset needs follows from the dataset, so there is no index that could be out of step.

One file a clip, and not shards of many: a shard could only be whole when all its clips are, and then a
kill would lose more than one clip; processes would have to agree on who writes which shard; and a
random read of one clip (0.5 MiB for 49x480x720 in bfloat16) costs one open either way.
"""

import json
import logging
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cogvx_exp.console.progress import console
from cogvx_exp.core.disk import plain_disk_errors
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import atomic_write, fingerprint
from cogvx_exp.data.faults import ClipError

logger = logging.getLogger(__name__)

FORMAT = 2
"""Raise it when the content of an entry changes its meaning."""
CHECKSUM = "crc32"
"""Key of an entry's metadata: of the tensor's bytes. Entries that are older have none."""
_told: set[Path] = set()
"""Damaged entries that were named already."""


class TensorCache:
    """A folder of named tensors."""

    def __init__(self, folder: Path):
        self.folder = folder

    def key(self, made_from: dict[str, Any]) -> str:
        """The name of the entry that is made from the given values."""
        return fingerprint({"format": FORMAT, **made_from})

    def has(self, key: str, shape: Sequence[int] | None = None) -> bool:
        """Whether the entry exists and is whole, by its header; says which is not, and it is then made again.

        Args:
            key: of the entry.
            shape: that it must have, if that is known.

        Raises:
            UserError: it is there and must not be read.
        """
        path = self._path(key)
        try:
            damage = _damage(path, shape)
        except FileNotFoundError:
            return False
        except PermissionError:
            raise UserError(f"{path} may not be read; its owner can allow it: chmod -R g+rX {self.folder}") from None
        if damage and path not in _told:
            _told.add(path)
            console.warn(f"{path} {damage}: it is encoded again")
        return not damage

    def load(self, key: str) -> torch.Tensor:
        """Reads an entry.

        Raises:
            UserError: it is damaged.
        """
        path = self._path(key)
        try:
            with safe_open(path, framework="pt") as file:
                tensor: torch.Tensor = file.get_tensor("tensor")
                checksum = (file.metadata() or {}).get(CHECKSUM)
        except (SafetensorError, FileNotFoundError, IsADirectoryError) as error:
            raise _removed(path, str(error)) from None
        if checksum is not None and checksum != _checksum(tensor):
            raise _removed(path, "its content has changed")
        return tensor

    def save(self, key: str, tensor: torch.Tensor) -> None:
        """Writes an entry.

        Raises:
            ClipError: the tensor has values that are not finite.
            OSError: the cache cannot be written.
        """
        if not torch.isfinite(tensor).all():
            raise ClipError("encoding gave values that are not finite", "try model.dtype=float32, or take it out")
        tensor = tensor.detach().cpu().contiguous()
        path = self._path(key)
        with plain_disk_errors(path), atomic_write(path) as beside:
            save_file({"tensor": tensor}, beside, metadata={CHECKSUM: _checksum(tensor)})
        logger.debug("saved %s %s", path, list(tensor.shape))

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"


def _damage(path: Path, shape: Sequence[int] | None) -> str:
    """What is wrong with an entry, as its header and its size tell; nothing if it is whole.

    Layout of safetensors: 8 bytes with the header's length, the header in JSON, the tensors.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if length > size - 8:
                return "is cut off" if size >= 8 else f"has {size} bytes"
            tensor = json.loads(file.read(length))["tensor"]
            ends = tensor["data_offsets"][1]
    except IsADirectoryError:
        raise UserError(f"{path} is a folder where an entry of the cache belongs; remove it") from None
    except (ValueError, KeyError, TypeError, IndexError):
        return "is damaged"
    if size != 8 + length + ends:
        return "is cut off"
    if shape is not None and list(shape) != tensor["shape"]:
        return f"has the shape {tensor['shape']}, not {list(shape)}"
    return ""


def _removed(path: Path, why: str) -> UserError:
    with suppress(OSError):
        path.unlink(missing_ok=True)
    return UserError(
        f"{path}, an entry of the cache, is damaged ({why}) and was removed; start again: it is encoded anew, and "
        "resume=auto goes on from the last checkpoint"
    )


def _checksum(tensor: torch.Tensor) -> str:
    return f"{zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data):08x}"
