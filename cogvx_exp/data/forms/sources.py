"""Reads dataset formats. Each reader yields rows (a video and its captions) and the issues it found."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from cogvx_exp.config.imported import imported
from cogvx_exp.config.schema.data import Source
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.text import NotUtf8, read_text
from cogvx_exp.data.forms.folders import Search, split_controls
from cogvx_exp.data.forms.rows import VIDEO_ENDINGS, Found, LeftOut, Place, Row, make_row, row_of, with_control
from cogvx_exp.data.forms.tables import LINE_END, read_csv, read_jsonl
from cogvx_exp.data.issues import ClipError, DataIssue, issue_of
from cogvx_exp.demo.clips import make_demo
from cogvx_exp.media.window import Window


def read_source(
    source: Source, allow_outside_root: bool, control: str | None = None
) -> tuple[list[Row], list[DataIssue], list[LeftOut]]:
    """Reads a manifest. Videos are not opened.

    Args:
        source: the source.
        allow_outside_root: whether files may lie outside its root.
        control: where the control videos are: a column, a file with one path per line, or, for data=folder, the middle
            of names such as NAME.control.mp4. None: they are not needed.

    Returns:
        The usable rows, the issues of the others, and what is not used on purpose.

    Raises:
        UserError: the manifest itself cannot be read.
    """
    assert source.root is not None, "required by the config check"
    root = _fetch(source) if source.source == "hub" else Path(source.root)
    form = source.form if source.source == "hub" else source.source
    if source.source == "demo":
        assert source.clips
        assert source.drawn
        assert source.concept
        make_demo(root, source.clips, source.concept, source.drawn)
    if not root.is_dir():
        raise UserError(f"data.root={root} is not a folder; set it to the folder of the dataset")
    place = Place(root, None if allow_outside_root else _allowed(root, source))
    rows, issues, left_out = [], [], []
    for item in READERS[form or "files"](place, source, control):
        row = _checked(item, place) if isinstance(item, Row) else item
        if isinstance(row, DataIssue):
            issues.append(row)
        elif isinstance(row, LeftOut):
            left_out.append(row)
        else:
            rows.append(_with_token(row, source.id_token))
    duplicates = _duplicates(rows)
    issues += [issue_of(row.number, row.path, error) for row, error in duplicates]
    # By number: the first occurrence stays.
    repeated = {row.number for row, _ in duplicates}
    return [row for row in rows if row.number not in repeated], issues, left_out


def read_files(place: Place, source: Source, control: str | None) -> Iterator[Found]:
    """Captions in one file, and their videos on the same lines of another; likewise their control videos."""
    captions = _lines(place.root / source.caption_column, "data.caption_column")
    videos = _lines(place.root / source.video_column, "data.video_column")
    # With equal counts, an empty line is an empty caption, which is reported for its row.
    if len(captions) != len(videos):  # then empty lines are only formatting
        captions, videos = ([line for line in lines if line.strip()] for lines in (captions, videos))
    if len(captions) != len(videos):
        raise UserError(
            f"{source.caption_column} has {len(captions)} captions and {source.video_column} has {len(videos)} videos "
            f"in {place.root}; line N of one belongs to line N of the other; add or remove lines"
        )
    controls = _controls(place.root / control, videos, source) if control else [None] * len(videos)
    for number, (caption, video, of_row) in enumerate(zip(captions, videos, controls, strict=True), 1):
        if video.strip() or caption.strip():
            row = make_row(place.root, number, video, caption)
            yield with_control(row, place.root, of_row) if control else row


def read_folder(place: Place, source: Source, control: str | None) -> Iterator[Found]:
    """Videos anywhere below a folder, each with its caption in a text file of the same name; control videos have the
    clip's name and a word: NAME.control.mp4.
    """
    search = Search(place).run()
    clips, controls = split_controls(search.videos, (source.control_column, source.mask_column))
    yield from search.issues
    yield from search.left_out
    if not search.videos and not search.issues:
        raise UserError(f"data.root={place.root} has no videos ({', '.join(sorted(VIDEO_ENDINGS))})")
    for number, video in enumerate(sorted(clips), 1):
        caption = video.with_suffix(".txt")
        try:
            text = read_text(caption)
        except FileNotFoundError:
            yield DataIssue(number, str(video), f"has no caption {caption.name}", "add the file next to the video")
        except NotUtf8 as error:
            yield DataIssue(number, str(caption), error.what, error.fix)
        except OSError as error:
            yield DataIssue(number, str(caption), f"cannot be read ({error.strerror})", "fix or remove it")
        else:
            row: Found = row_of(number, str(video), " ".join(text.split()))
            if control:
                missing = video.with_name(f"{video.stem}.{control}{video.suffix}")
                row = with_control(row, video.parent, controls.get((video, control), missing).name)
            yield row


def read_custom(place: Place, source: Source, control: str | None) -> Iterator[Found]:
    """Pairs of a video and its caption or captions, from the user's own function."""
    assert control is None, "refused by the config check"
    assert source.reader, "required by the config check"
    read = imported(source.reader, "data.reader", "root")
    for number, pair in enumerate(read(place.root), 1):
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise UserError(
                f"data.reader.target={source.reader.target} must yield pairs of a video's path and its caption; its "
                f"item {number} is {pair!r:.100}"
            )
        video, captions = pair
        yield make_row(place.root, number, str(video), list(captions) if isinstance(captions, tuple) else captions)


READERS: dict[str, Callable[[Place, Source, str | None], Iterator[Found]]] = {
    "demo": read_files,
    "files": read_files,
    "csv": read_csv,
    "jsonl": read_jsonl,
    "folder": read_folder,
    "latents": read_files,
    "custom": read_custom,
}


def _fetch(source: Source) -> Path:
    """Downloads a dataset from the Hugging Face Hub, or finds it in the cache."""
    from cogvx_exp.core.hub import fetch

    assert source.root is not None
    return fetch(source.root, source.revision, kind="dataset", setting="data.root")


def _allowed(root: Path, source: Source) -> str:
    """The folder that files must lie in. The Hub's cache stores files elsewhere and links to them."""
    repository = root.parents[1] if len(root.parents) > 1 else root
    in_hub_cache = source.source == "hub" and (repository / "blobs").is_dir()
    return os.path.realpath(repository if in_hub_cache else root)


def _checked(row: Row, place: Place) -> Row | DataIssue:
    """The row, or an issue if its path leaves the root (by ../, an absolute path or a link)."""
    outside = [path for path in (row.path, row.control) if path and not place.holds(path)]
    if not outside:
        return row
    fix = "move it there, or set data.allow_outside_root=true"
    return DataIssue(row.number, outside[0], "lies outside data.root", fix)


def _with_token(row: Row, token: str | None) -> Row:
    if not token:
        return row
    # In every caption, also of held-out clips: the trigger word is part of the prompt that is measured.
    return replace(row, captions=tuple(f"{token} {caption}" for caption in row.captions))


def _duplicates(rows: list[Row]) -> list[tuple[Row, ClipError]]:
    first: dict[tuple[str, Window | None, tuple[str, ...], str | None], int] = {}
    duplicates = []
    for row in rows:
        earlier = first.setdefault((row.path, row.window, row.captions, row.control), row.number)
        if earlier != row.number:
            what = f"repeats the video and the caption of row {earlier}"
            duplicates.append((row, ClipError(what, "remove it; to see clips more often, set data.repeats")))
    return duplicates


def _controls(path: Path, videos: list[str], source: Source) -> list[str]:
    """The lines with control videos, one for each video.

    Raises:
        UserError: the file is missing, or their numbers differ.
    """
    setting = "mask_column" if path.name == source.mask_column else "control_column"
    controls = _lines(path, f"data.{setting}")
    if len(controls) != len(videos):  # then empty lines are only formatting
        controls = [line for line in controls if line.strip()]
    if len(controls) != len(videos):
        raise UserError(
            f"{path.name} has {len(controls)} videos and {source.video_column} has {len(videos)} in {path.parent}; "
            "line N of one belongs to line N of the other; add or remove lines"
        )
    return controls


def _lines(path: Path, setting: str) -> list[str]:
    """Lines of a text file, without trailing empty lines."""
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check data.root and {setting}") from None
    except NotUtf8 as error:
        raise UserError(f"{path} {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    lines = LINE_END.split(text)
    return lines[:-1] if not lines[-1].strip() else lines
