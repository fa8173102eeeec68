"""A whole dataset in the cache, ready to be sampled from."""

from dataclasses import astuple, dataclass, replace
from pathlib import Path

from cogvx_exp.config.schema import Data
from cogvx_exp.console.progress import console
from cogvx_exp.data.dataset import Clip, Dataset, accept, short_paths
from cogvx_exp.data.faults import DataFault
from cogvx_exp.latents.cache import TensorCache
from cogvx_exp.latents.captions import import_embeds, prepare_captions
from cogvx_exp.latents.context import PipelineContext
from cogvx_exp.latents.prepare import Entry, prepare_videos


@dataclass(frozen=True)
class EncodedClips:
    """Keys of clips and captions in the cache."""

    cache: TensorCache
    videos: list[tuple[Entry, ...]]
    """Of each clip: the clip and, with data.random_flip, its mirror image. Empty if the clips are
    encoded in the loop."""
    captions: list[tuple[str, ...]]
    """Of each clip: its captions, of which one is drawn."""
    no_caption: str
    """Of the empty caption."""
    names: list[str]
    """Of each clip, for messages."""


@dataclass(frozen=True)
class EncodedDataset:
    """The clips that could be encoded, and where they are in the cache."""

    dataset: Dataset
    training: EncodedClips
    held_out: EncodedClips
    text_keys: dict[str, str]
    """Key of each text that was asked for besides the captions."""


def encode_dataset(
    dataset: Dataset, data: Data, context: PipelineContext, texts: list[str], report: Path | None
) -> EncodedDataset:
    """Fills the cache with the clips (unless data.encode=online), their captions and other `texts`.

    Raises:
        UserError: clips cannot be encoded and data.on_error=raise; the others are in the cache all the same.
    """
    everything = [*dataset.clips, *dataset.held_out]
    raw = [clip for clip in everything if not clip.latents]
    text_keys = prepare_captions([*(text for clip in raw for text in clip.row.captions), "", *texts], context)
    imported = [clip for clip in everything if clip.latents]
    embeds = dict(zip((clip.name for clip in imported), import_embeds(imported, context.cache), strict=True))

    entries: dict[str, tuple[Entry, ...]] = {}
    # Held-out clips are always read from the cache: their loss is measured on the same pixels every time.
    to_cache = everything if data.encode == "cache" else dataset.held_out
    if to_cache:
        found, faults = prepare_videos(to_cache, data, context)
        gathered = context.processes.all_gather([astuple(fault) for fault in faults])
        faults = [DataFault(*fault) for of_process in gathered for fault in of_process]
        entries = {clip.name: entry for clip, entry in zip(to_cache, found, strict=True)}
        dataset = _without(dataset, {(fault.row, fault.file) for fault in faults})
        accept(replace(dataset, faults=short_paths(faults, data)), data, console, report)

    def gather(clips: list[Clip]) -> EncodedClips:
        return EncodedClips(
            cache=context.cache,
            videos=[entries[clip.name] for clip in clips if clip.name in entries],
            captions=[
                (embeds[clip.name],) if clip.latents else tuple(text_keys[text] for text in clip.row.captions)
                for clip in clips
            ],
            no_caption=text_keys[""],
            names=[clip.name for clip in clips],
        )

    context.processes.barrier()  # what the others encode is in the cache
    return EncodedDataset(dataset, gather(dataset.clips), gather(dataset.held_out), text_keys)


def _without(dataset: Dataset, faulty: set[tuple[int | None, str]]) -> Dataset:
    def good(clips: list[Clip]) -> list[Clip]:
        return [clip for clip in clips if (clip.row.number, clip.row.path) not in faulty]

    return replace(dataset, clips=good(dataset.clips), held_out=good(dataset.held_out))
