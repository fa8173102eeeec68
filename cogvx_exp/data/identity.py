"""Identity of a dataset: a few values in each checkpoint, compared when a run resumes."""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import astuple
from typing import Any

from cogvx_exp.data.dataset import Clip, Dataset


def identity_of(dataset: Dataset) -> dict[str, Any]:
    """Numbers of clips, and a hash of the files (path, bytes, frames, size), captions, control videos and order of all
    clips.

    Paths are relative to the common folder of all clips, so moving a dataset does not change its identity.
    """
    everything = [*dataset.clips, *dataset.held_out]
    common = os.path.commonpath([os.path.dirname(clip.row.path) for clip in everything]) if everything else ""
    held_out = len(dataset.held_out)
    digest = hashlib.blake2b(digest_size=16)
    for clip in everything:
        # Sizes instead of contents: hashing all bytes at every start would take minutes.
        digest.update(json.dumps(_row(clip, common)).encode())
    return {"clips": len(dataset.clips), "held_out": held_out, "blake2": digest.hexdigest()}


def dataset_changes(before: dict[str, Any] | None, now: dict[str, Any]) -> list[str]:
    """Differences between two identities; empty if the first is unknown (an older checkpoint)."""
    if before is None or before == now:
        return []
    differences = [f"{before['clips']} clips, now {now['clips']}"] if before["clips"] != now["clips"] else []
    if before["held_out"] != now["held_out"]:
        differences.append(f"{before['held_out']} held out, now {now['held_out']}")
    if not differences:
        differences = [f"{now['clips']} clips as before, but the files, captions or their order differ"]
    return [f"the dataset: {'; '.join(differences)}"]


def _row(clip: Clip, common: str) -> list[Any]:
    window = [str(clip.row.window)] if clip.row.window else []
    control = _file(clip.control.path, common) if clip.control else []
    return [*_file(clip.row.path, common), astuple(clip.info), clip.row.captions, *window, *control]


def _file(path: str, common: str) -> list[Any]:
    size = None
    with suppress(OSError):
        size = os.stat(path).st_size
    return [os.path.relpath(path, common or "."), size]
