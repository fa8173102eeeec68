"""Rules of the modes of `prepare` that turn footage into a dataset."""

from collections.abc import Iterator
from importlib.util import find_spec

from cogvx_exp.config.issues import Issue
from cogvx_exp.config.schema import PrepareJob

FOOTAGE = ("split", "filter", "caption", "review")
"""Modes that need no captions, buckets or encoders."""


def footage_is_possible(job: PrepareJob) -> Iterator[Issue]:
    """Issues of the chosen mode."""
    if job.mode == "split":
        yield from _split_is_possible(job)
    if job.mode == "filter":
        yield from _filter_is_possible(job)
    if job.mode == "review":
        yield from _takes_a_manifest(job)
    if job.mode == "caption":
        yield from _takes_a_manifest(job)
        if job.caption.backend == "vllm" and find_spec("vllm") is None:
            yield Issue("caption.backend=vllm", "is not installed: pip install vllm, or use openai or transformers")


def _split_is_possible(job: PrepareJob) -> Iterator[Issue]:
    if job.data.source != "folder":
        yield Issue(f"data={job.data.source}", "mode=split takes a folder of videos: data=folder data.root=FOLDER")
    shortest, longest = job.split.seconds
    if shortest > longest:
        yield Issue(f"split.seconds={job.split.seconds}", "the minimum comes first: split.seconds=[2,10]")
    yield from _needs("mode=split", "footage", "scenedetect")


def _filter_is_possible(job: PrepareJob) -> Iterator[Issue]:
    yield from _takes_a_manifest(job)
    for name in ("exposure", "motion"):
        limits = getattr(job.filter, name)
        if limits and limits[0] > limits[1]:
            yield Issue(f"filter.{name}={limits}", "the minimum comes first")
    yield from _needs("mode=filter", "footage", "scenedetect", "imagehash")
    if job.filter.text is not None:
        yield from _needs(f"filter.text={job.filter.text:g}", "footage-text", "rapidocr_onnxruntime")


def _takes_a_manifest(job: PrepareJob) -> Iterator[Issue]:
    if job.data.source != "jsonl":
        problem = f"mode={job.mode} needs a manifest in JSON Lines: data=jsonl data.root=FOLDER"
        yield Issue(f"data={job.data.source}", problem)


def _needs(setting: str, extra: str, *packages: str) -> Iterator[Issue]:
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        yield Issue(setting, f"needs {' and '.join(missing)}: pip install -e '.[{extra}]' -c constraints.txt")
