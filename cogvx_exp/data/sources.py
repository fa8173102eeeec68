"""The forms a dataset can have. Each reader gives rows (a video and its captions) and the faults it met."""

import csv
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvx_exp.config.schema.data import Source
from cogvx_exp.data.faults import ClipError, DataFault, fault_of
from cogvx_exp.errors import UserError
from cogvx_exp.world.clips import make_demo

VIDEO_ENDINGS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".gif", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"}

NOT_UTF8 = "is not UTF-8 text"
SAVE_AS_UTF8 = "save it as UTF-8"


@dataclass(frozen=True, slots=True)
class Row:
    """A video and its captions, as the manifest has them."""

    number: int
    """Line or record of the manifest, counted from 1."""
    path: str
    """The video's file."""
    captions: tuple[str, ...]
    """One of them is drawn each time the clip is used."""


Found = Row | DataFault


def read_source(source: Source, allow_outside_root: bool) -> tuple[list[Row], list[DataFault]]:
    """Reads a manifest. Videos are not opened.

    Raises:
        UserError: the manifest itself cannot be read.
    """
    assert source.root is not None, "the config check asks for it"
    root = _fetch(source) if source.source == "hub" else Path(source.root)
    form = source.form if source.source == "hub" else source.source
    if source.source == "demo":
        assert source.clips
        assert source.drawn
        assert source.concept
        make_demo(root, source.clips, source.concept, source.drawn)
    if not root.is_dir():
        raise UserError(f"data.root={root} is not a folder; set it to the folder of the dataset")
    rows, faults = [], []
    real_root = os.path.realpath(root)
    for found in READERS[form or "files"](root, source):
        row = found if isinstance(found, DataFault) else _checked(found, real_root, allow_outside_root)
        if isinstance(row, DataFault):
            faults.append(row)
        else:
            rows.append(_with_token(row, source.id_token))
    duplicates = _duplicates(rows)
    faults += [fault_of(row.number, row.path, error) for row, error in duplicates]
    repeated = {row.number for row, _ in duplicates}
    return [row for row in rows if row.number not in repeated], faults


def read_files(root: Path, source: Source) -> Iterator[Found]:
    """One caption a line in one file, and line by line its video in another."""
    captions = _lines(root / source.caption_column, "data.caption_column")
    videos = _lines(root / source.video_column, "data.video_column")
    if len(captions) != len(videos):  # then empty lines can only be there for the eye
        captions, videos = ([line for line in lines if line] for lines in (captions, videos))
    if len(captions) != len(videos):
        raise UserError(
            f"{source.caption_column} has {len(captions)} captions and {source.video_column} has {len(videos)} videos "
            f"in {root}; line N of one belongs to line N of the other, so add or take out the odd ones"
        )
    for number, (caption, video) in enumerate(zip(captions, videos, strict=True), 1):
        if video or caption:
            yield _row(root, number, video, caption)


def read_csv(root: Path, source: Source) -> Iterator[Found]:
    """A table with a header; a caption may have commas and line breaks if it is quoted."""
    path = _dataset_file(root, source)
    with _open_text(path) as file:
        reader = csv.DictReader(file)
        missing = {source.caption_column, source.video_column} - set(reader.fieldnames or [])
        if missing:
            raise UserError(
                f"{path} has no column {' and '.join(sorted(missing))}; it has {', '.join(reader.fieldnames or [])}. "
                "Set data.caption_column and data.video_column"
            )
        try:
            for number, record in enumerate(reader, 1):
                yield _row(root, number, record[source.video_column], record[source.caption_column])
        except UnicodeDecodeError:
            raise UserError(f"{path} {NOT_UTF8}; {SAVE_AS_UTF8}") from None


def read_jsonl(root: Path, source: Source) -> Iterator[Found]:
    """One JSON object a line; its caption is a text or a list of texts."""
    for number, line in enumerate(_lines(_dataset_file(root, source), "data.dataset_file"), 1):
        if not line:
            continue
        try:
            record = json.loads(line)
            yield _row(root, number, record[source.video_column], record[source.caption_column])
        except json.JSONDecodeError as error:
            yield DataFault(number, source.dataset_file or "", f"is not JSON ({error.msg})", "mend the line")
        except (KeyError, TypeError):
            keys = f"{source.caption_column} and {source.video_column}"
            yield DataFault(number, source.dataset_file or "", f"is not an object with {keys}", "add what is missing")


def read_folder(root: Path, source: Source) -> Iterator[Found]:
    """Videos anywhere below a folder, each with its caption in a text file of the same name."""
    videos = sorted(path for path in root.rglob("*") if path.suffix.lower() in VIDEO_ENDINGS)
    if not videos:
        raise UserError(f"data.root={root} has no videos ({', '.join(sorted(VIDEO_ENDINGS))})")
    for number, video in enumerate(videos, 1):
        caption = video.with_suffix(".txt")
        try:
            text = caption.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            yield DataFault(number, str(video), f"has no caption {caption.name}", "write one beside it")
        except UnicodeDecodeError:
            yield DataFault(number, str(caption), NOT_UTF8, SAVE_AS_UTF8)
        else:
            yield _row(root, number, str(video.relative_to(root)), " ".join(text.split()))


READERS: dict[str, Callable[[Path, Source], Iterator[Found]]] = {
    "demo": read_files,
    "files": read_files,
    "csv": read_csv,
    "jsonl": read_jsonl,
    "folder": read_folder,
    "latents": read_files,
}


def _fetch(source: Source) -> Path:
    """Downloads a dataset from the Hugging Face Hub, or finds it in the cache."""
    from cogvx_exp.hub import fetch

    assert source.root is not None
    return fetch(source.root, source.revision, kind="dataset", setting="data.root")


def _row(root: Path, number: int, video: Any, captions: Any) -> Found:
    listed = captions if isinstance(captions, list) else [captions]
    if not isinstance(video, str) or not video.strip():
        return DataFault(number, "", "has no video", "add its path or take the row out")
    path = str(root / video.strip())
    if not all(isinstance(caption, str) for caption in listed):
        return DataFault(number, path, "its caption is no text", "write a text or a list of texts")
    texts = tuple(caption.strip() for caption in listed if caption.strip())
    if not texts:
        return DataFault(number, path, "has an empty caption", "write one, or take the row out")
    return Row(number, path, texts)


def _checked(row: Row, real_root: str, allow_outside_root: bool) -> Found:
    """The row, or the fault that its path leaves the root (by ../, an absolute path or a link)."""
    if allow_outside_root or os.path.realpath(row.path).startswith(real_root + os.sep):
        return row
    mend = "move it there, or set data.allow_outside_root=true"
    return DataFault(row.number, row.path, "lies outside data.root", mend)


def _with_token(row: Row, token: str | None) -> Row:
    if not token:
        return row
    return Row(row.number, row.path, tuple(f"{token} {caption}" for caption in row.captions))


def _duplicates(rows: list[Row]) -> list[tuple[Row, ClipError]]:
    first: dict[tuple[str, tuple[str, ...]], int] = {}
    found = []
    for row in rows:
        earlier = first.setdefault((row.path, row.captions), row.number)
        if earlier != row.number:
            what = f"repeats the video and the caption of row {earlier}"
            found.append((row, ClipError(what, "take it out; to see clips more often, set data.repeats")))
    return found


def _dataset_file(root: Path, source: Source) -> Path:
    assert source.dataset_file is not None, "csv and jsonl have one"
    return root / source.dataset_file


def _lines(path: Path, setting: str) -> list[str]:
    """Stripped lines of a text file, with or without BOM and CR."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; set data.root and {setting} to where it is") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"{path} {NOT_UTF8} (line {line}); {SAVE_AS_UTF8}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    lines = [line.strip() for line in re.split(r"\r\n|\n|\r", text)]
    return lines[:-1] if lines[-1] == "" else lines


def _open_text(path: Path) -> Any:
    try:
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); set data.root and data.dataset_file") from None
