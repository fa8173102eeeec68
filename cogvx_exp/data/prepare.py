"""Fills the cache: every clip and every distinct caption is encoded once.

Each encoder is loaded only if something is missing, used, and released before the next one loads.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from cogvx_exp.config.schema import Data, Memory
from cogvx_exp.data.buckets import frame_indices
from cogvx_exp.data.cache import TensorCache
from cogvx_exp.data.encode import clip_pixels, encode_captions, encode_video
from cogvx_exp.data.manifest import Clip
from cogvx_exp.files import file_hash, read_json
from cogvx_exp.model.device import Compute, release
from cogvx_exp.model.load import identity, load_text_encoder, load_vae
from cogvx_exp.tracking.progress import progress

CAPTIONS_AT_ONCE = 8


@dataclass(frozen=True)
class Encoder:
    """What encodes: a pipeline's folder, a device with a type, and how to save memory."""

    folder: Path
    compute: Compute
    memory: Memory
    cache: TensorCache

    def made_by(self, part: str) -> dict[str, str]:
        """The share of this encoder in the fingerprint of what it encodes."""
        return {"encoder": identity(self.folder, part), "dtype": str(self.compute.dtype)}


def prepare_videos(clips: list[Clip], data: Data, encoder: Encoder) -> list[str]:
    """Encodes the clips that are not in the cache; returns the key of every clip.

    Raises:
        UserError: a clip cannot be decoded or encoded; what was encoded before stays.
    """
    made_by = encoder.made_by("vae")
    keys = [encoder.cache.key(_video_origin(clip, data) | made_by) for clip in clips]
    missing = {key: clip for key, clip in zip(keys, clips, strict=True) if not encoder.cache.has(key)}
    if missing:
        vae = load_vae(encoder.folder, encoder.compute, encoder.memory)
        for key, clip in progress("Encoding clips", missing.items()):
            moments = encode_video(clip_pixels(clip, data), vae)
            encoder.cache.save(key, moments, f"row {clip.row.number}, {clip.row.path}")
        del vae
        release(encoder.compute.device)
    return keys


def prepare_captions(captions: Iterable[str], encoder: Encoder) -> dict[str, str]:
    """Encodes the captions that are not in the cache; returns the key of each distinct caption."""
    max_length = read_json(encoder.folder / "transformer" / "config.json")["max_text_seq_length"]
    made_by = encoder.made_by("text_encoder") | {"tokenizer": identity(encoder.folder, "tokenizer")}
    keys = {
        caption: encoder.cache.key({"caption": caption, "max_length": max_length} | made_by)
        for caption in dict.fromkeys(captions)
    }
    missing = [caption for caption, key in keys.items() if not encoder.cache.has(key)]
    if missing:
        tokenizer, text_encoder = load_text_encoder(encoder.folder, encoder.compute)
        groups = [missing[i : i + CAPTIONS_AT_ONCE] for i in range(0, len(missing), CAPTIONS_AT_ONCE)]
        for group in progress("Encoding captions", groups):
            embeds = encode_captions(group, tokenizer, text_encoder, max_length)
            for caption, embed in zip(group, embeds, strict=True):
                encoder.cache.save(keys[caption], embed, f'caption "{caption[:60]}"')
        del tokenizer, text_encoder
        release(encoder.compute.device)
    return keys


def load_embeds(captions: list[str], keys: dict[str, str], cache: TensorCache) -> torch.Tensor:
    """Prompt embeddings from the cache: (captions, tokens, width)."""
    return torch.stack([cache.load(keys[caption]) for caption in captions])


def _video_origin(clip: Clip, data: Data) -> dict[str, object]:
    return {
        "video": file_hash(clip.row.path),
        "frames": frame_indices(clip.info, data, clip.bucket.num_frames),
        "bucket": str(clip.bucket),
        "reshape": data.reshape,
    }
