"""`mode=review`: a page with clips and their captions, which can be changed; it opens from the disk."""

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader

from cogvx_exp.config.schema import PrepareJob
from cogvx_exp.console.progress import console, progress
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import write_text
from cogvx_exp.footage.manifest import Record, read_manifest
from cogvx_exp.footage.rows import ClipRow, clip_rows, manifest_path
from cogvx_exp.footage.strips import strips

MOST_ROWS = 20_000
"""Of a manifest: the page contains all of it, so that a corrected one can be saved from there."""


def write_review(job: PrepareJob) -> Path:
    """Writes the page and returns its path.

    Raises:
        UserError: the manifest cannot be read, or is too large.
    """
    path, settings = manifest_path(job.data), job.review
    records = read_manifest(path)
    if len(records) > MOST_ROWS:
        raise UserError(f"{path} has {len(records)} rows; a page can have {MOST_ROWS}: review parts of it")
    if settings.first > len(records):
        raise UserError(f"review.first={settings.first}: {path} has {len(records)} rows")
    last = settings.first - 1 + settings.clips
    wanted = [settings.first - 1 <= index < last for index in range(len(records))]
    rows, issues = clip_rows(records, wanted, job.data, job.cache_dir)
    pictures = dict(zip(rows, progress("Rendering clips", strips(rows.values(), job.data), len(rows)), strict=True))
    problems = {(issue.row or 0) - 1: issue.what for issue in issues}
    cards = [
        _card(index, records[index], rows.get(index), settings.output_dir)
        | {"picture": pictures.get(index, ""), "problem": problems.get(index, "")}
        for index in range(settings.first - 1, min(last, len(records)))
    ]
    template = Environment(loader=PackageLoader("cogvx_exp.footage.review"), autoescape=True)
    text = template.get_template("review.html.j2").render(
        name=path.name,
        root=job.data.root,
        column=_script(job.data.caption_column),
        lines=_script([json.dumps(record, ensure_ascii=False) for record in records]),
        cards=cards,
        total=len(records),
    )
    page = settings.output_dir / "index.html"
    write_text(page, text)
    console.result(f"Review: {page}")
    return page


def _card(index: int, record: Record, row: ClipRow | None, folder: Path) -> dict[str, Any]:
    link = ""
    if row:
        end = f",{row.window.end:g}" if row.window.end is not None else ""
        link = f"{quote(os.path.relpath(row.path, folder))}#t={row.window.start:g}{end}"
    scores = record.get("scores")
    return {
        "index": index,
        "video": record.get("video", ""),
        "window": str(row.window) if row else "",
        "link": link,
        "scores": ", ".join(f"{name} {value}" for name, value in scores.items()) if isinstance(scores, dict) else "",
    }


def _script(value: Any) -> str:
    """JSON that is safe in a script element."""
    return json.dumps(value).replace("<", "\\u003c")
