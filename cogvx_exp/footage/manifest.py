"""Manifests in JSON Lines, read and written with all their columns."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import write_text
from cogvx_exp.core.text import NotUtf8, read_text
from cogvx_exp.data.forms.tables import LINE_END

Record = dict[str, Any]


def read_manifest(path: Path) -> list[Record]:
    """The rows of a manifest.

    Raises:
        UserError: it does not exist, or a line is not a JSON object.
    """
    try:
        text = read_text(path)
    except NotUtf8 as error:
        raise UserError(f"{path} {error}") from None
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check data.root and data.dataset_file") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    records = []
    for number, line in enumerate(LINE_END.split(text), 1):
        if line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict):
                raise UserError(f"{path}, line {number}: is not a JSON object; fix or remove the line")
            records.append(record)
    return records


def write_manifest(path: Path, records: list[Record]) -> None:
    """Writes a manifest atomically."""
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Inside, no other process changes the manifest: each reads what the ones before it have written."""
    lock = path.with_name(f".{path.name}.lock")
    with lock.open("w") as file:
        with suppress(OSError):  # file systems without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    # The file stays: another process may be waiting for it.
