"""Checks files of weights and settings before anything loads them. Does not need torch."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from cogvx_exp.core.errors import UserError

LFS_POINTER = b"version https://git-lfs"
"""How the small file begins that Git leaves in the place of a large one."""
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
"""Endings of files that run code when they are loaded."""


def check_weights(path: Path, setting: str) -> None:
    """Reads the header of a safetensors file, whose length must be that of the file.

    Args:
        path: the file.
        setting: what named it, for messages.

    Raises:
        UserError: it is missing, cut off, a Git LFS pointer, or of another format.
    """
    check_file(path, setting)
    if path.suffix in PICKLES:
        raise UserError(
            f"{setting}: {path} is a pickle, which can run any code when it is loaded; convert it to .safetensors "
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
    """Looks at the first bytes of a file.

    Raises:
        UserError: it is missing, empty, unreadable or a Git LFS pointer.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
    except FileNotFoundError:
        what = "a link to a file that is not there" if path.is_symlink() else "missing"
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
    """The content of a JSON file that holds an object.

    Raises:
        UserError: it is missing, or holds something else.
    """
    check_file(path, setting)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{setting}: {path} is not valid JSON ({error}); download or copy it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{setting}: {path} should hold a JSON object; download or copy it again")
    return content
