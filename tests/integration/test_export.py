"""The export, loaded by a fresh process that knows nothing of this project."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cogvx_exp.model.load import pipeline_folder
from cogvx_exp.model.positions import rotary_positions
from tests.conftest import extended

LATENTS = (3, 4, 6)
"""Frames, height and width of the latents that the models are compared on."""

PLAIN_DIFFUSERS = """
import sys, torch
from diffusers import CogVideoXPipeline
base, export, inputs, outputs = sys.argv[1:]
pipe = CogVideoXPipeline.from_pretrained(base)
given = torch.load(inputs, weights_only=True)
with torch.no_grad():
    before = pipe.transformer(**given, return_dict=False)[0]
    pipe.load_lora_weights(export)
    after = pipe.transformer(**given, return_dict=False)[0]
torch.save({"before": before, "after": after}, outputs)
assert not any(name.startswith("cogvx_exp") for name in sys.modules)
"""


def model_inputs(transformer: torch.nn.Module) -> dict[str, object]:
    config, generator = transformer.config, torch.Generator().manual_seed(1)
    frames, height, width = LATENTS
    shape = (1, frames, config.in_channels, height, width)
    return {
        "hidden_states": torch.randn(shape, generator=generator),
        "encoder_hidden_states": torch.randn(1, 226, config.text_embed_dim, generator=generator),
        "timestep": torch.tensor([500]),
        "image_rotary_emb": rotary_positions(config, LATENTS, torch.device("cpu")),
    }


@pytest.mark.parametrize(("rank", "alpha"), [extended(8, 8), (4, 16)])
def test_plain_diffusers_loads_the_trained_model(make_job, train_in, tmp_path: Path, rank: int, alpha: int) -> None:
    job = make_job(
        f"method.rank={rank}", f"method.alpha={alpha}", "steps=5", "validation=none", "lr_scheduler=constant"
    )
    transformer = train_in(job, tmp_path / "run").transformer.eval()
    given = model_inputs(transformer)
    with torch.no_grad():
        trained = transformer(**given, return_dict=False)[0]
    torch.save(given, tmp_path / "inputs.pt")

    files = [pipeline_folder(job.model, job.cache_dir), tmp_path / "run" / "export", tmp_path / "inputs.pt"]
    command = [sys.executable, "-c", PLAIN_DIFFUSERS, *map(str, files), str(tmp_path / "outputs.pt")]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    fresh = torch.load(tmp_path / "outputs.pt", weights_only=True)

    torch.testing.assert_close(fresh["after"], trained, rtol=1e-5, atol=1e-5)
    assert (fresh["before"] - trained).abs().max() > 1e-2
