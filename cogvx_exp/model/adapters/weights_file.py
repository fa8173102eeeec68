"""Checks weight and configuration files before anything loads them. Does not need torch."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from cogvx_exp.core.errors import UserError

LFS_POINTER = b"version https://git-lfs"
"""Start of the pointer file that Git LFS leaves in place of a large file."""
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
"""Suffixes of files that can run code when loaded."""


def check_weights(path: Path, setting: str) -> None:
    """Checks the header of a safetensors file and that the file has the size given there.

    Args:
        path: the file.
        setting: the setting that gives it, for messages.

    Raises:
        UserError: it is missing, truncated, a Git LFS pointer, or in another format.
    """
    check_file(path, setting)
    if path.suffix in PICKLES:
        raise UserError(
            f"{setting}: {path} is a pickle, which can run arbitrary code when loaded; convert it to .safetensors "
            "(safetensors.torch.save_file)"
        )
    try:
        with safe_open(path, framework="np"):
            pass
    except SafetensorError as error:
        raise UserError(
            f"{setting}: {path} ({path.stat().st_size:,} bytes) is cut off or not a safetensors file ({error}); "
            "download or copy it again"
        ) from None
    except OSError as error:
        raise UserError(f"{setting}: {path} cannot be read ({error.strerror or error})") from None


def check_file(path: Path, setting: str) -> None:
    """Checks the first bytes of a file.

    Raises:
        UserError: it is missing, empty, unreadable or a Git LFS pointer.
    """
    try:
        with path.open("rb") as file:
            # The first bytes are enough to tell; reading gigabytes from a network drive would take minutes.
            start = file.read(len(LFS_POINTER))
    except FileNotFoundError:
        what = "a broken link" if path.is_symlink() else "missing"
        raise UserError(f"{setting}: {path} is {what}; download or copy it again") from None
    except OSError as error:
        raise UserError(f"{setting}: {path} cannot be read ({error.strerror})") from None
    if not start:
        raise UserError(f"{setting}: {path} is empty; download or copy it again")
    if start == LFS_POINTER:
        raise UserError(
            f"{setting}: {path} is a Git LFS pointer, not the file itself; run `git lfs install` and `git lfs pull` in "
            f"{path.parent}"
        )


def read_settings(path: Path, setting: str) -> dict[str, Any]:
    """The content of a JSON file with an object.

    Raises:
        UserError: it is missing, or contains something else.
    """
    check_file(path, setting)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{setting}: {path} is not valid JSON ({error}); download or copy it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{setting}: {path} should contain a JSON object; download or copy it again")
    return content
