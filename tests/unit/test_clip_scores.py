"""Scores by CLIP, with a tiny random model: no download."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from cogvx_exp.config.schema import Score
from cogvx_exp.core.errors import UserError
from cogvx_exp.evaluation.scores.base import build_scores, score_video
from cogvx_exp.evaluation.scores.clip import MEAN, PAIR, STD, Clip
from cogvx_exp.evaluation.scores.video import ScoredVideo
from cogvx_exp.launch.early_checks import check_early
from tests.conftest import MakeJob

FRAMES = np.random.default_rng(0).integers(0, 256, (12, 40, 60, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    letters = [*"abcdefghijklmnopqrstuvwxyz.", *(f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvwxyz.")]
    vocab = {token: number for number, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(vocab), "max_position_embeddings": 12, "eos_token_id": len(vocab) - 1}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 8}, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    return folder


def by_hand(folder: Path, frame: np.ndarray, texts: list[str]) -> np.ndarray:
    """Cosines of one frame, with the inputs that CLIP's own processor makes."""
    image = Image.fromarray(frame).resize((48, 32), Image.Resampling.BICUBIC).crop((8, 0, 40, 32))
    pixels = (np.asarray(image) / 255 - MEAN) / STD
    tokens = CLIPTokenizer.from_pretrained(folder)(texts, padding=True, truncation=True, max_length=12)
    model = CLIPModel.from_pretrained(folder).eval()
    with torch.no_grad():
        found = model(
            torch.tensor(tokens["input_ids"]),
            torch.tensor(pixels).permute(2, 0, 1)[None].float(),
            torch.tensor(tokens["attention_mask"]),
        )
    return torch.cosine_similarity(found.image_embeds, found.text_embeds).numpy()


def test_scores_are_those_of_the_model(tiny_clip: Path, make_job: MakeJob) -> None:
    settings = make_job().validation.scores  # type: ignore[union-attr]
    on = {
        name: settings[name].model_copy(update={"enabled": True, "kwargs": {"model": str(tiny_clip)}})
        for name in ("clip", "aesthetics")
    }
    scores = build_scores(on, "validation.scores")
    assert scores["clip"].asks == ("prompt",)
    frames = np.repeat(FRAMES[:1], 9, axis=0)
    prompt = "a panda plays a guitar in the rain"  # longer than the model's text
    found = score_video(scores, ScoredVideo(frames, prompt))
    assert found["clip"] == pytest.approx(100 * by_hand(tiny_clip, FRAMES[0], [prompt])[0], rel=1e-3)
    good, bad = 100 * by_hand(tiny_clip, FRAMES[0], list(PAIR))
    assert found["aesthetics"] == pytest.approx(1 / (1 + np.exp(bad - good)), rel=1e-3)
    assert found["clip"] != score_video(scores, ScoredVideo(frames, "another"))["clip"]
    one_by_one = [score_video(scores, ScoredVideo(FRAMES[index : index + 1], prompt))["clip"] for index in range(12)]
    chosen = np.linspace(0, 11, 8).round().astype(int)
    assert score_video(scores, ScoredVideo(FRAMES, prompt))["clip"] == pytest.approx(
        np.mean([one_by_one[index] for index in chosen]), rel=1e-3
    )


def test_weights_that_cannot_be_used_are_refused_before_the_run(
    tmp_path: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(UserError, match=r"kwargs\.model=.* has no model\.safetensors"):
        Clip(str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    job = make_job()
    clip = job.validation.scores["clip"].model_copy(update={"enabled": True})  # type: ignore[union-attr]
    missing = Score.model_validate(clip.model_dump() | {"kwargs": {"model": "nobody/clip", "revision": "a"}})
    validation = job.validation.model_copy(update={"scores": {"clip": missing}})
    with pytest.raises(UserError, match=r"scores\.clip: kwargs\.model=nobody/clip is not in the Hugging Face cache"):
        check_early(job.model_copy(update={"validation": validation}))
