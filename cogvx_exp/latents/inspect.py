"""Inspects a dataset before training: a table on the terminal and a page with a contact sheet."""

import base64
import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from PIL import Image
from rich.table import Table

from cogvx_exp.config.schema import PrepareJob
from cogvx_exp.console.progress import progress
from cogvx_exp.console.terminal import PlainConsole
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import write_text
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.data.dataset import Clip, Dataset
from cogvx_exp.data.decoding import DecodingPool, read_clip
from cogvx_exp.data.frames import choose_frames
from cogvx_exp.data.issues import ClipError, print_issues
from cogvx_exp.data.resize import ResizeSpec, cropped_share
from cogvx_exp.footage.filter.histograms import histograms
from cogvx_exp.footage.manifest import read_manifest
from cogvx_exp.footage.rows import clip_rows, manifest_path
from cogvx_exp.footage.strips import strips

THUMBNAIL_HEIGHT = 96
"""Pixels."""
SHOWN_FRAMES = (0.0, 0.5, 1.0)
"""Shown frames of a clip, as fractions of its length."""


@dataclass(frozen=True)
class Figure:
    """Statistics of a quantity over all clips."""

    name: str
    smallest: str
    median: str
    largest: str


def inspect_dataset(dataset: Dataset, job: PrepareJob, console: PlainConsole) -> Path:
    """Prints the dataset's contents, writes the page and returns its path.

    Raises:
        UserError: there is no usable clip.
    """
    clips = [*dataset.clips, *dataset.held_out]
    tokens, why_no_tokens = _token_counts(clips, job)
    figures = _figures(clips, tokens)
    buckets = _buckets(dataset, job)
    console.print(f"{job.data.root}: {dataset.describe()}\n")
    console.print(_table(("", "smallest", "median", "largest"), [_cells(figure) for figure in figures]))
    console.print()
    console.print(_table(tuple(buckets[0]) if buckets else (), [tuple(row.values()) for row in buckets]))
    readers = Counter(clip.info.decoder for clip in clips if not clip.latents).most_common()
    if readers:
        console.print()
        console.print(_table(("read by", "clips"), [(reader, str(count)) for reader, count in readers]))
    if why_no_tokens:
        console.print(f"\nCaption lengths are unknown: {why_no_tokens}", soft_wrap=True)
    if dataset.issues:
        console.warn(f"\n{len(dataset.issues)} rows cannot be used:")
        print_issues(dataset.issues, console)
    path = job.inspect.output_dir / "index.html"
    cards = _cards(clips[: job.inspect.clips], job, tokens)
    page = Environment(loader=PackageLoader("cogvx_exp.latents"), autoescape=True).get_template("inspect.html.j2")
    tables = {"figures": figures, "buckets": buckets, "readers": readers, "scores": _scores(job)}
    text = page.render(job=job, dataset=dataset, cards=cards, total=len(clips), **tables)
    write_text(path, text)
    console.result(f"\nContact sheet: {path}")
    return path


def _figures(clips: list[Clip], tokens: dict[str, int]) -> list[Figure]:
    quantities: dict[str, tuple[Callable[[Clip], float], str]] = {
        "frames": (lambda clip: clip.info.num_frames, "{:.0f}"),
        "seconds": (lambda clip: clip.info.duration, "{:.1f}"),
        "frames per second": (lambda clip: clip.info.fps, "{:.2f}"),
        "height": (lambda clip: clip.info.height, "{:.0f}"),
        "width": (lambda clip: clip.info.width, "{:.0f}"),
        "captions": (lambda clip: len(clip.row.captions), "{:.0f}"),
    }
    if tokens:
        quantities["caption tokens"] = (lambda clip: max(tokens[text] for text in clip.row.captions), "{:.0f}")
    figures = []
    for name, (quantity, form) in quantities.items():
        values = np.array([quantity(clip) for clip in clips] or [0.0])
        low, middle, high = (form.format(value) for value in (values.min(), np.median(values), values.max()))
        figures.append(Figure(name, low, middle, high))
    return figures


def _scores(job: PrepareJob) -> list[dict[str, Any]]:
    """Histograms of the scores that mode=filter has written, and pictures of the clips near the limits."""
    if job.data.source != "jsonl":
        return []
    records = read_manifest(manifest_path(job.data))
    found = histograms(records, job.filter)
    near = {index for one in found for limit in one.limits for index in (*limit.below, *limit.above)}
    rows, _ = clip_rows(records, [index in near for index in range(len(records))], job.data, job.cache_dir)
    pictures = dict(zip(rows, progress("Rendering clips", strips(rows.values(), job.data), len(rows)), strict=True))

    def cards(name: str, indices: list[int]) -> list[dict[str, Any]]:
        values = ((index, records[index]["scores"][name]) for index in indices)
        return [{"row": index + 1, "value": f"{value:g}", "image": pictures.get(index)} for index, value in values]

    return [
        {
            "histogram": one,
            "limits": [(limit, cards(one.name, limit.below), cards(one.name, limit.above)) for limit in one.limits],
        }
        for one in found
    ]


def _buckets(dataset: Dataset, job: PrepareJob) -> list[dict[str, str]]:
    """Number of clips per bucket, and how much of them is lost."""
    rows = []
    for bucket, count in dataset.bucket_counts().items():
        clips = [clip for clip in dataset.clips if clip.bucket == bucket]
        cropped = np.mean([_cropped(clip, job) for clip in clips])
        unused = np.mean([1 - bucket.num_frames / clip.info.num_frames for clip in clips])
        row = {"bucket": str(bucket), "clips": str(count), "cropped": f"{cropped:.0%}"}
        rows.append(row | {"frames skipped": f"{unused:.0%}"})
    return rows


def _cropped(clip: Clip, job: PrepareJob) -> float:
    return cropped_share(clip.info.height, clip.info.width, clip.bucket, job.data.reshape)


def _token_counts(clips: list[Clip], job: PrepareJob) -> tuple[dict[str, int], str]:
    """Token count of each caption, or why they are unknown."""
    from cogvx_exp.console.quiet import quiet_libraries

    # Only here: the tokenizer needs transformers, the rest of the page does not.
    quiet_libraries()
    from cogvx_exp.latents.encode import token_counts
    from cogvx_exp.model.load import load_tokenizer, pipeline_folder

    captions = sorted({text for clip in clips for text in clip.row.captions})
    if not captions:
        return {}, "no clip can be used"
    try:
        tokenizer = load_tokenizer(pipeline_folder(job.model, job.cache_dir))
    except UserError as error:
        return {}, str(error)
    return dict(zip(captions, token_counts(captions, tokenizer), strict=True)), ""


def _cards(clips: list[Clip], job: PrepareJob, tokens: dict[str, int]) -> list[dict[str, Any]]:
    """Contents of the page for each clip: frames before and after, and facts."""
    limit = job.model.transformer.max_text_seq_length
    shown = [clip for clip in clips if not clip.latents]
    tasks = [task for clip in shown for task in _tasks(clip, job)]
    cards = []
    with DecodingPool(job.data.decode_workers, job.data.decode_timeout) as pool:
        results = progress("Rendering clips", pool.map(read_clip, tasks), len(tasks))
        # The same iterator twice takes results in pairs: `_tasks` yields two per clip.
        for before, after, clip in zip(results, results, shown, strict=False):
            info = clip.info
            facts = f"{info.num_frames} frames, {info.height}x{info.width}, {info.fps:.2f} fps, {info.duration:.1f} s"
            facts += f", read by {info.decoder}"
            cards.append(
                {
                    "name": Path(clip.row.path).name,
                    "window": str(clip.row.window or ""),
                    "row": clip.row.number,
                    "facts": facts,
                    "bucket": str(clip.bucket),
                    "loses": f"{_cropped(clip, job):.0%} of the frame, "
                    f"{info.num_frames - clip.bucket.num_frames} frames",
                    "before": _strip(before),
                    "after": _strip(after),
                    "captions": [
                        {"text": text, "tokens": tokens.get(text), "cut": tokens.get(text, 0) > limit}
                        for text in clip.row.captions
                    ],
                }
            )
    return cards


def _tasks(clip: Clip, job: PrepareJob) -> list[tuple[Any, ...]]:
    """Two versions of a clip: whole, as a thumbnail, and as used for training."""
    choice = choose_frames(job.data, clip.bucket.num_frames)
    width = max(round(clip.info.width * THUMBNAIL_HEIGHT / clip.info.height), 1)
    whole = Bucket(clip.bucket.num_frames, THUMBNAIL_HEIGHT, width)
    fits = (whole, ResizeSpec("resize")), (clip.bucket, ResizeSpec(job.data.reshape))
    return [(clip.row.path, choice, bucket, fit, clip.info, clip.row.window) for bucket, fit in fits]


def _strip(frames: np.ndarray | ClipError) -> str:
    """Some frames side by side, as the source of an <img>; empty if they cannot be decoded."""
    if isinstance(frames, ClipError):
        return ""
    chosen = [frames[round(share * (len(frames) - 1))] for share in SHOWN_FRAMES]
    image = Image.fromarray(np.concatenate(chosen, axis=1))
    image = image.resize((round(image.width * THUMBNAIL_HEIGHT / image.height), THUMBNAIL_HEIGHT))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    # Inside the page, so that it can be sent to somebody as one file.
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _cells(figure: Figure) -> tuple[str, ...]:
    return figure.name, figure.smallest, figure.median, figure.largest
