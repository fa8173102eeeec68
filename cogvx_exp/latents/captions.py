"""Fills the cache with captions; each distinct one is encoded once."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from cogvx_exp.console.progress import console, progress
from cogvx_exp.console.terminal import one_line
from cogvx_exp.core.files import file_hash, read_json
from cogvx_exp.data.dataset import Clip
from cogvx_exp.data.factory_latents import load_tensor
from cogvx_exp.latents.cache import TensorCache
from cogvx_exp.latents.context import PipelineContext
from cogvx_exp.latents.encode import encode_captions, token_counts
from cogvx_exp.model.device import release
from cogvx_exp.model.load import identity, load_text_encoder

logger = logging.getLogger(__name__)

CAPTIONS_AT_ONCE = 16


def prepare_captions(captions: Iterable[str], context: PipelineContext) -> dict[str, str]:
    """Encodes captions that are not in the cache; returns the key of each distinct caption."""
    made_by = context.made_by("text_encoder") | {"tokenizer": identity(context.folder, "tokenizer")}
    made_by |= {"max_length": str(context.max_tokens)}
    width = read_json(context.folder / "text_encoder" / "config.json")["d_model"]
    cache, shape = context.cache, (context.max_tokens, width)
    keys = {caption: cache.key({"caption": caption} | made_by) for caption in dict.fromkeys(captions)}
    # Sorted, so that batches, and thus the last bits of embeddings, do not depend on the order of rows.
    ordered = sorted(keys)
    groups = [ordered[first : first + CAPTIONS_AT_ONCE] for first in range(0, len(ordered), CAPTIONS_AT_ONCE)]
    groups = groups[context.processes.rank :: context.processes.world_size]
    # Only now is T5 loaded, 9 GiB in bfloat16, if anything is missing.
    missing = [group for group in groups if not all(cache.has(keys[caption], shape) for caption in group)]
    logger.info("captions: %d distinct, %d to encode here", len(keys), sum(map(len, missing)))
    if missing:
        tokenizer, text_encoder = load_text_encoder(context.folder, context.compute)
        _warn_truncated([caption for group in missing for caption in group], tokenizer, context.max_tokens)
        for group in progress("Encoding captions", missing):
            # Always the whole group: the other captions of a batch can change an embedding's last bits.
            embeds = encode_captions(group, tokenizer, text_encoder, context.max_tokens)
            for caption, embed in zip(group, embeds, strict=True):
                if not cache.has(keys[caption], shape):
                    cache.save(keys[caption], embed)
        # Before the VAE is loaded: both would not fit on small GPUs.
        del tokenizer, text_encoder
        release(context.compute.device)
    return keys


def import_embeds(clips: list[Clip], cache: TensorCache) -> list[str]:
    """Copies the embeddings of already encoded clips into the cache; returns their keys."""
    keys = []
    for clip in clips:
        assert clip.latents
        keys.append(cache.key({"embeds": file_hash(Path(clip.latents.embeds))}))
        if not cache.has(keys[-1]):
            cache.save(keys[-1], load_tensor(clip.latents.embeds, 2))
    return keys


def load_embeds(captions: list[str], keys: dict[str, str], cache: TensorCache) -> torch.Tensor:
    """Prompt embeddings from the cache: (captions, tokens, width)."""
    return torch.stack([cache.load(keys[caption]) for caption in captions])


def _warn_truncated(captions: list[str], tokenizer: Any, max_tokens: int) -> None:
    counts = token_counts(captions, tokenizer)
    for caption, count in zip(captions, counts, strict=True):
        if count > max_tokens:
            console.warn(f'Caption truncated from {count} to {max_tokens} tokens: "{one_line(caption)[:60]}..."')
