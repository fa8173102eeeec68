"""Captions by vLLM on the real device. Skipped without a GPU, vLLM and a model.

COGVX_CAPTION_MODEL=Qwen/Qwen2.5-VL-3B-Instruct python -m benchmarks.gpu tests --only vllm
"""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.unit.test_caption import CLIPS, caption, captions, root, video

__all__ = ["root", "video"]  # fixtures

MODEL = os.environ.get("COGVX_CAPTION_MODEL")

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.skipif(not find_spec("vllm"), reason="needs vLLM"),
    pytest.mark.skipif(not MODEL, reason="needs COGVX_CAPTION_MODEL, the name or the folder of a model"),
]


def test_vllm_writes_captions(root: Path) -> None:
    assert caption(root, None, "caption.backend=vllm", f"caption.model={MODEL}", "caption.frames=2") == 0
    written = captions(root)
    assert len(written) == CLIPS
    assert all(text and len(text.split()) > 3 for text in written), written
