"""Manifests in CSV and JSON Lines. They are read strictly: ambiguities are issues, never guessed."""

import csv
import io
import json
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cogvx_exp.config.schema.data import Source
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.text import NotUtf8, read_text
from cogvx_exp.data.forms.rows import VIDEO_ENDINGS, Found, Place, Row, make_row, with_control
from cogvx_exp.data.forms.windows import row_of_record
from cogvx_exp.data.issues import DataIssue

# Not str.splitlines, which also splits at characters that captions may contain, such as U+2028.
LINE_END = re.compile(r"\r\n|\n|\r")
OTHER_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}
QUOTE = 'put a caption with commas, quotes or line breaks in quotes, and double the quotes in it: "a ""b"", c"'


def read_csv(place: Place, source: Source, control: str | None) -> Iterator[Found]:
    """A table with a header; captions may contain commas and line breaks if they are quoted."""
    path, name = _dataset_file(place, source), source.dataset_file or ""
    text = _read(path)
    lines = LINE_END.split(text) if '"' in text else []
    with _fields_of_any_size():
        # Without `strict`, csv silently accepts broken quotes.
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        _refuse_other_delimiters(LINE_END.split(text, maxsplit=1)[0], path, source)
        header = _header(reader, path, source, control)
        for number, record in enumerate(_records(reader), 1):
            issue = (record.problem, QUOTE) if record.problem else _wrong(record, header, lines, source)
            if issue:
                yield DataIssue(number, name, *issue)
            else:
                named = dict(zip(header, record.fields, strict=False))
                row = make_row(place.root, number, named[source.video_column], named[source.caption_column])
                yield with_control(row, place.root, named[control]) if control else row


def read_jsonl(place: Place, source: Source, control: str | None) -> Iterator[Found]:
    """One JSON object per line; its caption is a text or a list of texts. It may name a part of the video."""
    path, name = _dataset_file(place, source), source.dataset_file or ""
    text = _read(path)
    if text.lstrip().startswith("[") and not _is_json(text.lstrip().partition("\n")[0]):
        convert = f"jq -c '.[]' {shlex.quote(str(path))} > NEW.jsonl"
        raise UserError(f"{path} is one JSON list, not one JSON object per line; convert it: {convert}")
    for number, line in enumerate(LINE_END.split(text), 1):
        if not line.strip():
            continue
        try:
            # json keeps the last of repeated keys, so a caption would be lost without a word.
            record = json.loads(line, object_pairs_hook=_without_repeats)
            row = row_of_record(place.root, number, record, source)
            yield with_control(row, place.root, record[control]) if control and isinstance(row, Row) else row
        except json.JSONDecodeError as error:
            yield DataIssue(number, name, f"is not JSON ({error.msg})", "fix the line")
        except RecursionError:
            yield DataIssue(number, name, "is JSON that is nested too deeply", "fix the line")
        except _Repeated as error:
            yield DataIssue(number, name, f"has {error} twice", "keep one of them")
        except (KeyError, TypeError):
            keys = " and ".join(filter(None, (source.caption_column, source.video_column, control)))
            yield DataIssue(number, name, f"is not an object with {keys}", "add the missing keys")


class _Repeated(Exception):  # noqa: N818
    """A JSON object contains a key twice."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for key, value in pairs:
        if key in record:
            raise _Repeated(key)
        record[key] = value
    return record


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return False
    return True


def _header(reader: Any, path: Path, source: Source, control: str | None) -> list[str]:
    """The column names.

    Raises:
        UserError: required columns are missing or duplicated.
    """
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise UserError(f"{path}: the header in line 1 cannot be read ({error}); {QUOTE}") from None
    needed = {source.caption_column, source.video_column, *([control] if control else [])}
    missing = sorted(needed - set(header))
    if missing:
        raise UserError(
            f"{path} has no column {' and '.join(missing)}; it has {', '.join(header) or 'nothing'}. "
            f"Set data.caption_column and data.video_column{' or add control videos' if control in missing else ''}"
        )
    repeated = sorted(name for name in needed if header.count(name) > 1)
    if repeated:
        raise UserError(f"{path} has the column {' and '.join(repeated)} twice; rename one of them")
    return header


def _refuse_other_delimiters(first_line: str, path: Path, source: Source) -> None:
    for delimiter, name in OTHER_DELIMITERS.items():
        columns = {part.strip().strip('"') for part in first_line.split(delimiter)}
        if {source.caption_column, source.video_column} <= columns:
            raise UserError(f"{path} is separated by {name}; save it with commas")


@dataclass(frozen=True)
class _Record:
    """A record of a CSV file."""

    first: int
    """Its first line, counted from 1."""
    last: int
    fields: list[str]
    problem: str = ""
    """Why it could not be split into fields."""

    @property
    def lines(self) -> str:
        return f"line {self.first}" if self.first == self.last else f"lines {self.first} to {self.last}"


def _records(reader: Any) -> Iterator[_Record]:
    """The records; empty lines are skipped."""
    while True:
        first = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            record = _Record(first, reader.line_num, [])
            yield replace(record, problem=f"{record.lines}: {_explained(error)}")
        else:
            if fields:
                yield _Record(first, reader.line_num, fields)


def _explained(error: csv.Error) -> str:
    if "unexpected end" in str(error):
        return "a quote is opened and never closed, so everything after it belongs to the field"
    return "a quoted field continues after its closing quote" if "expected after" in str(error) else str(error)


def _wrong(record: _Record, header: list[str], lines: list[str], source: Source) -> tuple[str, str] | None:
    """What is wrong with a record, and how to fix it; None if it is valid."""
    fields = record.fields
    if len(fields) < len(header) or any(field.strip() for field in fields[len(header) :]):
        what = f"{record.lines}: has {len(fields)} fields, but the header has {len(header)}"
        return what, f"{QUOTE}, with no space before the first quote" if len(fields) > len(header) else "add the others"
    # A quote that was forgotten swallows rows; valid multi-line captions do not look like rows.
    for line in range(record.first + 1, record.last + 1):
        if _is_row(lines[line - 1], header, source):
            return f"{record.lines}: a quote is still open, but line {line} looks like a separate row", QUOTE
    return None


def _is_row(line: str, header: list[str], source: Source) -> bool:
    """Whether a line on its own looks like a row: enough fields, with a video path in the right column."""
    try:
        fields = next(csv.reader([line]), [])
    except csv.Error:
        return False
    if len(fields) < len(header):
        return False
    return Path(fields[header.index(source.video_column)].strip()).suffix.lower() in VIDEO_ENDINGS


@contextmanager
def _fields_of_any_size() -> Iterator[None]:
    """Lifts the csv module's limit of 128 KiB per field inside the block."""
    # A setting of the whole process, so it is put back.
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _dataset_file(place: Place, source: Source) -> Path:
    assert source.dataset_file is not None, "csv and jsonl have one"
    return place.root / source.dataset_file


def _read(path: Path) -> str:
    try:
        return read_text(path)
    except NotUtf8 as error:
        raise UserError(f"{path} {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); set data.root and data.dataset_file") from None
