"""What a measurement trains on: random weights and random encoded clips, made here, since nothing is downloaded."""

import gc
import shutil
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from cogvx_exp.config.paths import conf_dir
from cogvx_exp.config.rules.jobs import check_train
from cogvx_exp.config.schema import TrainJob
from cogvx_exp.config.typed import typed
from cogvx_exp.core.errors import UserError
from cogvx_exp.model.build import build_pipeline, built_folder

CLIPS = 8
FREE_GIB = 16
"""Disk for the weights of a 5b, with what is written beside them."""


def job_of(settings: str, cache: Path, *, steps: int, validation: bool) -> TrainJob:
    """A checked job with random weights and encoded clips of the model's native size.

    Raises:
        UserError: the settings do not go together.
    """
    own = [f"cache_dir={cache}", f"steps={steps}", "model.weights=random", "lr_scheduler=constant", "device=cuda"]
    own += ["data=latents", f"data.root={cache}", "data.workers=0", "memory.preflight=false"]
    own += ["validation=default", "validation.num_inference_steps=2"] if validation else ["validation=none"]
    if validation and "task=i2v" in settings.split():
        own.append(f"validation.images={_image(cache)}")
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        job = typed(compose("train", [*own, *settings.split()]), TrainJob)
    issues = check_train(job)
    if issues:
        raise UserError("; ".join(str(issue) for issue in issues))
    return job.model_copy(update={"data": job.data.model_copy(update={"root": str(write_clips(job, cache))})})


def write_clips(job: TrainJob, cache: Path) -> Path:
    """A folder of encoded clips as `data=latents` and the CogVideoX Factory read it; made once for each shape."""
    native, vae, transformer = job.model.native, job.model.vae, job.model.transformer
    frames = (native.num_frames - 1) // vae.temporal_compression_ratio + 1
    size = [length // vae.spatial_compression_ratio for length in (native.height, native.width)]
    shape = (2 * vae.latent_channels, frames, *size)
    text = (transformer.max_text_seq_length, transformer.text_embed_dim)
    root = cache / "clips" / "x".join(map(str, (*shape, *text)))
    if (root / "videos.txt").exists():
        return root
    generator = torch.Generator().manual_seed(0)
    for folder in ("video_latents", "image_latents", "prompt_embeds"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(CLIPS):
        moments = torch.randn(shape, generator=generator)
        moments[vae.latent_channels :] = -12.0  # log-variance: an encoder is all but certain of its latents
        torch.save(moments, root / "video_latents" / f"{number}.pt")
        torch.save(moments[:, :1].clone(), root / "image_latents" / f"{number}.pt")
        torch.save(torch.randn(text, generator=generator), root / "prompt_embeds" / f"{number}.pt")
    (root / "prompts.txt").write_text("".join(f"clip {number}\n" for number in range(CLIPS)))
    (root / "videos.txt").write_text("".join(f"videos/{number}.mp4\n" for number in range(CLIPS)))  # last: all is there
    return root


def build_weights(job: TrainJob) -> None:
    """Makes the pipeline with random weights; built on the GPU, where the values of a 5b take seconds and not minutes.

    They are not those that the same settings give without a GPU, which is of no importance here.
    """
    folder = built_folder(job.model, job.cache_dir)
    if folder.exists():
        return
    _make_room(folder)
    print(f"Building {job.model.name} with random weights in {folder}", flush=True)
    with torch.device("cuda"):
        build_pipeline(job.model, folder)
    gc.collect()
    torch.cuda.empty_cache()  # what is measured begins with an empty GPU


def _make_room(folder: Path) -> None:
    """Deletes the weights of other models if the disk has no room for these."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for other in sorted(folder.parent.iterdir(), key=lambda path: path.stat().st_mtime):
        if shutil.disk_usage(folder.parent).free >> 30 >= FREE_GIB:
            return
        shutil.rmtree(other, ignore_errors=True)


def _image(cache: Path) -> Path:
    """A picture to start videos from."""
    path = cache / "start.png"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.linear_gradient("L").convert("RGB").save(path)
    return path
