"""The cache of encoded clips and captions.

An entry is a safetensors file named by a fingerprint of everything that determines it: the video's content, its frames
and bucket, the encoder's weights and dtype. A changed setting gives another name, so nothing stale is ever read.
Entries are written atomically. There is no index that could become inconsistent: the names follow from the dataset.

There is one file per clip rather than shards of many: a shard is only complete when all its clips are, so a kill would
lose several clips; processes would have to agree on who writes which shard; and reading one clip at random (0.5 MiB for
49x480x720 in bfloat16) needs one open either way.
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
from cogvx_exp.data.issues import ClipError

logger = logging.getLogger(__name__)

FORMAT = 2
"""Increase it when the meaning of an entry's content changes."""
CHECKSUM = "crc32"
"""Metadata key of the checksum of the tensor's bytes. Older entries have none."""
_reported: set[Path] = set()
"""Damaged entries that were already reported."""


class TensorCache:
    """A folder of tensors, by name."""

    def __init__(self, folder: Path):
        self.folder = folder

    def key(self, made_from: dict[str, Any]) -> str:
        """The name of the entry determined by the given values."""
        return fingerprint({"format": FORMAT, **made_from})

    def has(self, key: str, shape: Sequence[int] | None = None) -> bool:
        """Whether the entry exists and is complete, judged by its header; reports damaged entries, which are encoded
        again.

        Args:
            key: name of the entry.
            shape: expected shape, if known.

        Raises:
            UserError: the entry exists but is not readable.
        """
        path = self._path(key)
        try:
            damage = _damage(path, shape)
        except FileNotFoundError:
            return False
        except PermissionError:
            raise UserError(f"{path} is not readable; its owner can change that: chmod -R g+rX {self.folder}") from None
        # `has` is called several times for an entry; one report is enough.
        if damage and path not in _reported:
            _reported.add(path)
            console.warn(f"{path} {damage}: encoding it again")
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
            raise _removed(path, "its checksum is wrong")
        return tensor

    def save(self, key: str, tensor: torch.Tensor) -> None:
        """Writes an entry.

        Raises:
            ClipError: the tensor has non-finite values.
            OSError: the cache cannot be written.
        """
        # In float16 the VAE may overflow; such an entry would only surface as a NaN loss, hours later.
        if not torch.isfinite(tensor).all():
            raise ClipError("encoding gave non-finite values", "try model.dtype=float32, or remove it")
        tensor = tensor.detach().cpu().contiguous()
        path = self._path(key)
        with plain_disk_errors(path), atomic_write(path) as tmp:
            save_file({"tensor": tensor}, tmp, metadata={CHECKSUM: _checksum(tensor)})
        logger.debug("saved %s %s", path, list(tensor.shape))

    def _path(self, key: str) -> Path:
        # 256 folders, because some file systems are slow with a million names in one.
        return self.folder / key[:2] / f"{key}.safetensors"


def _damage(path: Path, shape: Sequence[int] | None) -> str:
    """The damage of an entry, judged by its header and size; empty if there is none.

    Layout of safetensors: 8 bytes with the length of the header, the header in JSON, the tensors.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if length > size - 8:
                return "is truncated" if size >= 8 else f"has {size} bytes"
            tensor = json.loads(file.read(length))["tensor"]
            ends = tensor["data_offsets"][1]
    except IsADirectoryError:
        raise UserError(f"{path} is a folder in the place of a cache entry; remove it") from None
    except (ValueError, KeyError, TypeError, IndexError):
        return "is damaged"
    if size != 8 + length + ends:
        return "is truncated"
    if shape is not None and list(shape) != tensor["shape"]:
        return f"has the shape {tensor['shape']}, not {list(shape)}"
    return ""


def _removed(path: Path, why: str) -> UserError:
    with suppress(OSError):
        path.unlink(missing_ok=True)
    return UserError(
        f"{path}, a cache entry, is damaged ({why}) and was removed; start again: it will be encoded again, and "
        "resume=auto continues from the last checkpoint"
    )


def _checksum(tensor: torch.Tensor) -> str:
    # CRC-32 is fast and enough: this finds damage, not forgery.
    return f"{zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data):08x}"
