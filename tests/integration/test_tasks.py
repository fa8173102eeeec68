"""What a task and an objective change in training."""

from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXImageToVideoPipeline

from cogvx_exp.model.device import choose_compute
from cogvx_exp.model.load import load_scheduler, load_vae, pipeline_folder
from cogvx_exp.runs.metrics import read_metrics
from cogvx_exp.runs.run_folder import read_job
from cogvx_exp.tasks.image_to_video import ImageToVideo
from tests.integration.test_matrix import train


@pytest.mark.parametrize(("how", "scale"), [("auto", 1 / 2.8), ("multiply", 2.8), ("divide", 1 / 2.8)])
def test_training_and_the_pipeline_scale_an_image_alike(how: str, scale: float, make_job) -> None:
    """The pipeline conditions on the first frame as it encodes it; training's condition of the same frame is equal."""
    job = make_job("model=tiny-1.5-i2v", "task=i2v")
    folder, compute = pipeline_folder(job.model, job.cache_dir), choose_compute("cpu", job.model)
    vae = load_vae(folder, compute, job.memory, how)
    pipeline = CogVideoXImageToVideoPipeline.from_pretrained(folder, vae=vae)
    image = torch.rand(1, 3, 32, 48) * 2 - 1
    moments = vae.encode(image[:, :, None]).latent_dist
    latents, theirs = pipeline.prepare_latents(
        image, 1, 4, 13, 32, 48, torch.float32, torch.device("cpu"), torch.Generator().manual_seed(0)
    )
    draw = torch.randn(moments.mean.shape, generator=torch.Generator().manual_seed(0))
    extras = {"image": image, "image_noise": draw, "image_mask": torch.ones(1, dtype=torch.bool)}
    torch.testing.assert_close(ImageToVideo(job.task).condition(extras, latents, vae), theirs)
    drawn = moments.mean + moments.std * draw
    torch.testing.assert_close(theirs[:, 0], drawn[:, :, 0] * scale)


def test_training_follows_the_objective(tmp_path: Path, shared_cache: Path) -> None:
    parts = ["timesteps=tests.objectives.always_seven", "error=tests.objectives.one_half"]
    parts.append("weighting=tests.objectives.weight_by_signal")
    run = train(
        tmp_path / "run", shared_cache, "tiny-5b", "validation.every=null", *(f"objective.{part}" for part in parts)
    )
    job = read_job(run.path)
    alphas = load_scheduler(pipeline_folder(job.model, job.cache_dir), job.model.sampling.scheduler).alphas_cumprod
    for line in read_metrics(run.metrics):
        assert [line["loss"], line["loss_t0_249"]] == pytest.approx([0.5 * float(alphas[7])] * 2)
