"""Scores by a CLIP model from the Hub, or a folder. It computes on the CPU, on a few frames."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cogvx_exp.core.errors import UserError
from cogvx_exp.core.hub import fetch
from cogvx_exp.evaluation.scores.reduced import sampled

if TYPE_CHECKING:
    import torch

FILES = ["config.json", "model.safetensors", "tokenizer*.json", "vocab.json", "merges.txt", "special_tokens_map.json"]
"""What is fetched from a repository, which may also have other formats of the weights."""
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the pixels that CLIP models were trained on."""
PAIR = ("Beautiful photo.", "Ugly photo.")
"""CLIP-IQA's prompts for aesthetics (arXiv:2207.12396)."""


class Clip:
    """A CLIP model; its weights are loaded at the first use.

    Args:
        model: folder, or repository on the Hub, with weights as safetensors.
        revision: of the repository.

    Raises:
        UserError: it cannot be fetched, or its weights are in another format.
    """

    def __init__(self, model: str, revision: str | None = None):
        folder = Path(model).expanduser()
        if not folder.is_dir():
            folder = fetch(model, revision, kind="model", setting="kwargs.model", patterns=FILES)
        if not (folder / "model.safetensors").is_file():
            raise UserError(
                f"kwargs.model={model} has no model.safetensors; choose a CLIP model whose weights are in that format"
            )
        self._folder = folder

    def similarities(self, frames: np.ndarray, texts: list[str]) -> np.ndarray:
        """Cosine between some frames and texts, (frames, texts)."""
        import torch

        model, tokenizer = _loaded(self._folder)
        size = model.config.vision_config.image_size
        # At most 77 tokens; what a prompt says beyond them does not count.
        tokens = tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        with torch.inference_mode():
            found = model(**tokens, pixel_values=_pixels(sampled(frames), size))
        return (found.image_embeds @ found.text_embeds.T).numpy()


class TextSimilarity(Clip):
    """100 times the mean cosine between the video's frames and its prompt (CLIPScore, arXiv:2104.08718)."""

    def __call__(self, frames: np.ndarray, prompt: str) -> float:
        """The score of a video."""
        return 100 * float(self.similarities(frames, [prompt]).mean())


class Aesthetics(Clip):
    """Probability that frames are beautiful rather than ugly photos (CLIP-IQA), which needs no further weights."""

    def __call__(self, frames: np.ndarray) -> float:
        """The score of a video."""
        good, bad = 100 * self.similarities(frames, list(PAIR)).T
        return float((1 / (1 + np.exp(bad - good))).mean())


@cache
def _loaded(folder: Path) -> tuple[Any, Any]:
    """The model and its tokenizer, which both scores share."""
    from transformers import AutoTokenizer, CLIPModel

    # safetensors only: a pickle can run any code.
    model = CLIPModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    return model.float().eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _pixels(frames: np.ndarray, size: int) -> "torch.Tensor":
    """Frames as the model takes them: the shorter side is scaled to `size`, the middle is cropped."""
    import torch

    scale = size / min(frames.shape[1:3])
    height, width = (round(length * scale) for length in frames.shape[1:3])
    top, left = (height - size) // 2, (width - size) // 2
    images = (Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC) for frame in frames)
    cropped = np.stack([np.asarray(image)[top : top + size, left : left + size] for image in images])
    return torch.from_numpy((cropped / 255 - MEAN) / STD).permute(0, 3, 1, 2).float()
