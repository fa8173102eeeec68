"""What tells one dataset from another: a few values in each checkpoint, compared when a run goes on."""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import astuple
from typing import Any

from cogvx_exp.data.dataset import Clip, Dataset


def identity_of(dataset: Dataset) -> dict[str, Any]:
    """Numbers of clips, and a hash over the files (path, bytes, frames, size), captions and order of all clips.

    Paths count from the folder that all clips are in: a dataset that was moved is the same.
    """
    everything = [*dataset.clips, *dataset.held_out]
    common = os.path.commonpath([os.path.dirname(clip.row.path) for clip in everything]) if everything else ""
    held_out = len(dataset.held_out)
    digest = hashlib.blake2b(digest_size=16)
    for clip in everything:
        digest.update(json.dumps(_row(clip, common)).encode())
    return {"clips": len(dataset.clips), "held_out": held_out, "blake2": digest.hexdigest()}


def dataset_changes(before: dict[str, Any] | None, now: dict[str, Any]) -> list[str]:
    """What has changed between two identities; nothing if the first one is not known (an older checkpoint)."""
    if before is None or before == now:
        return []
    differences = [f"{before['clips']} clips, now {now['clips']}"] if before["clips"] != now["clips"] else []
    if before["held_out"] != now["held_out"]:
        differences.append(f"{before['held_out']} held out, now {now['held_out']}")
    if not differences:
        differences = [f"{now['clips']} clips as before, but other files, captions or another order"]
    return [f"the dataset: {'; '.join(differences)}"]


def _row(clip: Clip, common: str) -> list[Any]:
    size = None
    with suppress(OSError):
        size = os.stat(clip.row.path).st_size
    return [os.path.relpath(clip.row.path, common or "."), size, astuple(clip.info), clip.row.captions]
