"""What training feeds the transformer equals what the diffusers pipeline feeds it, input by input.

A difference here is what users see as dark, grey, static or drifting videos.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXImageToVideoPipeline, CogVideoXPipeline

from cogvx_exp.data.dataset import load_dataset
from cogvx_exp.diffusion.batch import collate
from cogvx_exp.diffusion.denoise import model_inputs
from cogvx_exp.diffusion.objective import add_noise
from cogvx_exp.distributed.process_group import ProcessGroup
from cogvx_exp.loading.condition import with_condition
from cogvx_exp.loading.sampler import SampleIndex
from cogvx_exp.model.device import choose_compute
from cogvx_exp.model.load import load_scheduler, load_vae
from cogvx_exp.training.run import accelerator_for
from cogvx_exp.training.setup import Training, build_training, prepare_data
from tests.pipeline_inputs import inputs_at

SHAPES = {
    "tiny-5b": "t2v",
    "tiny-2b": "t2v",
    "tiny-1.5": "t2v",
    "tiny-5b-i2v": "i2v",
    "tiny-1.5-i2v": "i2v",
}
NATIVE = ("32", "48")
OTHER = ("48", "64")
SMALLER = ("32", "32")
"""For 1.5: beyond its native size, and in portrait, the pipeline of diffusers 0.42 itself fails."""


def prepare(make_job, tmp_path: Path, model: str, size: tuple[str, str]):
    height, width = size
    job = make_job(
        f"model={model}",
        f"task={SHAPES[model]}",
        f"data.height_buckets=[{height}]",
        f"data.width_buckets=[{width}]",
        f"validation.height={height}",
        f"validation.width={width}",
        "data.caption_dropout=0",
        *(["task.condition_dropout=0"] if SHAPES[model] == "i2v" else []),
    )
    compute = choose_compute("cpu", job.model)
    data = prepare_data(job, load_dataset(job.data, job.cache_dir), compute, tmp_path / "faults.csv", ProcessGroup())
    with accelerator_for(compute) as accelerator:
        return job, data, build_training(job, data, accelerator)


def pipeline_inputs(
    job, data, training: Training, batch, noisy: torch.Tensor, size: tuple[str, str], monkeypatch
) -> dict[str, Any]:
    """What the diffusers pipeline calls the transformer with, at the batch's timestep, from the same noisy latents."""
    vae = load_vae(data.pipeline, data.compute, job.memory)
    kind = CogVideoXImageToVideoPipeline if SHAPES[job.model.name] == "i2v" else CogVideoXPipeline
    scheduler = load_scheduler(data.pipeline, job.model.sampling.scheduler)
    pipeline = kind(
        tokenizer=None, text_encoder=None, vae=vae, transformer=training.transformer.eval(), scheduler=scheduler
    )
    settings = {"prompt_embeds": batch.prompt_embeds, "guidance_scale": 1.0, "latents": noisy}
    if SHAPES[job.model.name] == "i2v":
        # The pipeline takes an image of [0, 1] and draws its latent: give it ours, and no spread.
        settings["image"] = (batch.extras["image"] + 1) / 2
        monkeypatch.setattr(
            "diffusers.pipelines.cogvideo.pipeline_cogvideox_image2video.retrieve_latents",
            lambda output, generator: output.latent_dist.mean,
        )
    height, width = map(int, size)
    settings |= {"height": height, "width": width, "num_frames": job.validation.num_frames}
    return inputs_at(pipeline, int(batch.timesteps[0]), monkeypatch, **settings)


@pytest.mark.parametrize("size", [NATIVE, OTHER], ids=["native", "other"])
@pytest.mark.parametrize("model", SHAPES)
def test_training_feeds_the_model_what_the_pipeline_feeds_it(
    make_job, tmp_path: Path, model: str, size: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "1.5" in model and size == OTHER:
        size = SMALLER
    job, data, training = prepare(make_job, tmp_path, model, size)
    batch = replace(collate([training.samples[SampleIndex(7, 1)]]), timesteps=torch.tensor([417]))
    vae = load_vae(data.pipeline, data.compute, job.memory)
    if batch.extras:
        # The pipeline rescales an image that leaves [0, 1]; noise may do that, so it is cut here.
        extras = batch.extras | {"image": batch.extras["image"].clamp(-1, 1)}
        extras["image_noise"] = torch.zeros_like(extras["image_noise"])
        batch = with_condition(replace(batch, extras=extras), data.context, vae)
    alphas = load_scheduler(data.pipeline, job.model.sampling.scheduler).alphas_cumprod
    noisy = add_noise(batch.latents, batch.noise, alphas[batch.timesteps])

    ours = model_inputs(noisy, batch, dict(training.transformer.config), torch.float32)
    theirs = pipeline_inputs(job, data, training, batch, noisy, size, monkeypatch)

    assert set(ours) <= set(theirs) | {"ofs"}
    for name in ("hidden_states", "encoder_hidden_states", "timestep"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-5, check_dtype=False)
    if ours["image_rotary_emb"] is None:
        assert theirs["image_rotary_emb"] is None
    else:
        for mine, other in zip(ours["image_rotary_emb"], theirs["image_rotary_emb"], strict=True):
            torch.testing.assert_close(mine, other)
    assert (ours["ofs"] is None) == (theirs.get("ofs") is None)
    if ours["ofs"] is not None:
        torch.testing.assert_close(ours["ofs"], theirs["ofs"])
    assert training.transformer.config.get("use_learned_positional_embeddings") == (
        model == "tiny-5b-i2v" and size == NATIVE
    )
    if job.model.transformer.patch_size_t:
        assert ours["hidden_states"].shape[1] % 2 == 0
