"""Rows of a dataset and their checks."""

import os
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cogvx_exp.core.text import is_text
from cogvx_exp.data.issues import DataIssue
from cogvx_exp.media.window import Window

VIDEO_ENDINGS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".gif", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"}

JUNK = {
    *("__MACOSX", ".AppleDouble", ".DS_Store", ".Spotlight-V100", ".Trashes", ".fseventsd"),  # macOS
    *("Thumbs.db", "desktop.ini", "$RECYCLE.BIN", "System Volume Information"),  # Windows
    *(".ipynb_checkpoints", "@eaDir", "#recycle", "lost+found"),  # Jupyter, NAS boxes, Linux
}
"""Files and folders that operating systems and tools leave in a dataset."""


@dataclass(frozen=True, slots=True)
class Row:
    """A video and its captions, from the manifest."""

    number: int
    """Line or record of the manifest, counted from 1."""
    path: str
    """Path of the video."""
    captions: tuple[str, ...]
    """One of them is drawn each time the clip is used."""
    window: Window | None = None
    """The part of the video that is the clip; None: all of it."""
    control: str | None = None
    """Path of its control video, if the task needs one from a file."""

    @property
    def key(self) -> str:
        """Identifies the clip: the path, and the window if there is one."""
        return f"{self.path}#{self.window}" if self.window else self.path


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A video that is not used: a file that is not meant as training data, or a row with `keep: false`."""

    path: str
    by_manifest: bool = False
    """Whether the manifest excludes it."""


Found = Row | DataIssue | LeftOut


@dataclass(frozen=True)
class Place:
    """The root of a dataset, and where its files may be."""

    root: Path
    allowed: str | None
    """Real path of the folder that files must lie in; None: no restriction."""

    def holds(self, path: str) -> bool:
        """Whether a file, with links resolved, is in an allowed place."""
        if self.allowed is None:
            return True
        # With a separator at the end: /data/clips2 does not lie in /data/clips.
        return f"{os.path.realpath(path)}{os.sep}".startswith(self.allowed.rstrip(os.sep) + os.sep)


def is_junk(name: str) -> bool:
    """Whether a file or folder is left by a system, such as macOS's `._clip.mp4`."""
    return name.startswith(("._", ".Trash-")) or name in JUNK


def make_row(root: Path, number: int, video: Any, captions: Any, window: Window | None = None) -> Found:
    """The row for a manifest's video and caption (or captions)."""
    if not isinstance(video, str) or not video.strip():
        return DataIssue(number, "", "has no video", "add its path or remove the row")
    path = find_file(root, video)
    if any(is_junk(part) for part in video.strip().split("/")):
        return LeftOut(path)
    return row_of(number, path, captions, window)


def row_of(number: int, path: str, captions: Any, window: Window | None = None) -> Row | DataIssue:
    """The row for a video file and its caption (or captions)."""
    if "\0" in path or not is_text(path):
        return DataIssue(number, path, "has a name that is not UTF-8", "rename the file (e.g. with convmv)")
    listed = captions if isinstance(captions, list) else [captions]
    if not all(isinstance(caption, str) for caption in listed):
        return DataIssue(number, path, "its caption is not text", "write a text or a list of texts")
    texts = tuple(caption.strip() for caption in listed if caption.strip())
    if not texts:
        return DataIssue(number, path, "has an empty caption", "write one, or remove the row")
    if not all(map(is_text, texts)):
        return DataIssue(number, path, "its caption has an incomplete character (a lone surrogate)", "write it again")
    return Row(number, path, texts, window)


def with_control(found: Found, root: Path, control: Any) -> Found:
    """The row with the path of its control video."""
    if not isinstance(found, Row):
        return found
    if not isinstance(control, str) or not control.strip():
        return DataIssue(found.number, found.path, "has no control video", "add its path, or remove the row")
    return replace(found, control=find_file(root, control))


def find_file(root: Path, name: str) -> str:
    """The file a manifest refers to, relative to the root.

    Spaces around a name are kept only if such a file exists. `~` is the home folder. Accents may be composed or
    decomposed (as on macOS).
    """
    stripped = name.strip()
    path = str(root / stripped)
    # Nearly all names: no file system is asked here.
    if stripped.isascii() and stripped == name and not stripped.startswith("~"):
        return path
    if "\0" in name or not is_text(name):
        return path
    # macOS stores decomposed accents, manifests written elsewhere have composed ones.
    others = [str(root / name), path, *(str(root / unicodedata.normalize(form, stripped)) for form in ("NFC", "NFD"))]
    if stripped.startswith("~"):
        others.append(os.path.expanduser(stripped))
    return next((other for other in others if os.path.lexists(other)), path)
