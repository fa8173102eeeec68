"""Searches for videos below a folder, including linked folders."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from cogvx_exp.data.forms.rows import VIDEO_ENDINGS, LeftOut, Place, is_junk
from cogvx_exp.data.issues import DataIssue

Identity = tuple[int, int]
"""Device and inode of a folder, independent of its path."""


@dataclass
class Search:
    """Visits each folder once, by its own path before that of a link to it, so circular links do no harm."""

    place: Place
    videos: list[Path] = field(default_factory=list)
    """In arbitrary order."""
    issues: list[DataIssue] = field(default_factory=list)
    """Folders that cannot be read."""
    left_out: list[LeftOut] = field(default_factory=list)
    _seen: set[Identity] = field(default_factory=set)
    _links: list[str] = field(default_factory=list)

    def run(self) -> "Search":
        """Searches below the root."""
        # Links come last, so that a file has the path below the root and not one through a link.
        self._look_below(str(self.place.root))
        while self._links:
            # Sorted, so that of several links to a folder the same one wins on every machine.
            links, self._links = sorted(self._links), []
            for link in links:
                if self.place.holds(link):
                    self._look_below(link)
                else:
                    what = f"is a link to a folder outside data.root ({os.path.realpath(link)})"
                    fix = "set data.allow_outside_root=true to follow it, or move the folder there"
                    self.issues.append(DataIssue(None, link, what, fix))
        return self

    def _look_below(self, top: str) -> None:
        # A stack, as recursion has a limit that deep folders reach.
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            try:
                status = os.stat(folder)
                # By inode: several paths may lead to one folder.
                identity = (status.st_dev, status.st_ino)
                if identity in self._seen:
                    continue
                self._seen.add(identity)
                # scandir knows the kind of each entry without asking the file system again, which is slow on network
                # drives.
                with os.scandir(folder) as entries:
                    waiting += [entry.path for entry in entries if self._is_folder(entry)]
            except OSError as error:
                what = f"cannot be read ({error.strerror})"
                self.issues.append(DataIssue(None, folder, what, "change its permissions, or remove it"))

    def _is_folder(self, entry: os.DirEntry) -> bool:
        """Records a video, link or junk file; returns whether the entry is a folder to search."""
        is_video = os.path.splitext(entry.name)[1].lower() in VIDEO_ENDINGS
        is_folder = entry.is_dir(follow_symlinks=False)
        if is_junk(entry.name):
            if is_video or is_folder:
                self.left_out.append(LeftOut(entry.path))
            return False
        if is_video:
            self.videos.append(Path(entry.path))
        if entry.is_symlink() and not is_video:
            self._note_link(entry.path)
        return is_folder

    def _note_link(self, path: str) -> None:
        if os.path.isdir(path):
            self._links.append(path)
        elif not os.path.exists(path) and not os.path.splitext(path)[1]:  # without a suffix, so presumably of a folder
            what = f"is a link to {os.readlink(path)}, which does not exist"
            self.issues.append(DataIssue(None, path, what, "fix or remove the link"))


def split_controls(videos: list[Path], words: tuple[str, ...]) -> tuple[list[Path], dict[tuple[Path, str], Path]]:
    """The clips, and their control videos by clip and word (`control` in NAME.control.mp4)."""
    named = {video.with_suffix(""): video for video in videos}
    controls = {}
    for video in videos:
        name, word = Path(video.stem).stem, Path(video.stem).suffix.removeprefix(".")
        clip = named.get(video.with_name(name))
        if word in words and clip:
            controls[clip, word] = video
    of_clips = set(controls.values())
    return [video for video in videos if video not in of_clips], controls
