"""Samples videos with the diffusers pipelines, from prompt embeddings made earlier."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXPipeline, CogVideoXTransformer3DModel

from cogvx_exp.config.schema.training import SamplingSettings
from cogvx_exp.data.video import write_video
from cogvx_exp.files import write_json


@dataclass(frozen=True)
class VideoRequest:
    """One video to sample: everything that decides how it looks, besides the weights."""

    prompt: str
    negative_prompt: str
    seed: int
    num_frames: int
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    fps: int
    num_inference_steps: int
    guidance_scale: float
    dynamic_cfg: bool


def video_requests(settings: SamplingSettings, prompts: list[str], num_videos: int = 1) -> list[VideoRequest]:
    """The videos of all prompts; video i of a prompt has seed + i."""
    shared = settings.model_dump(
        include={"negative_prompt", "num_frames", "height", "width", "fps"}
        | {"num_inference_steps", "guidance_scale", "dynamic_cfg"}
    )
    return [
        VideoRequest(prompt=prompt, seed=settings.seed + index, **shared)
        for prompt in prompts
        for index in range(num_videos)
    ]


def split_prompts(prompts: str | list[str], separator: str) -> list[str]:
    """Prompts from a list, or from one text with separators."""
    parts = prompts.split(separator) if isinstance(prompts, str) else prompts
    return [part.strip() for part in parts if part.strip()]


class Sampler:
    """Samples latents and decodes them.

    Args:
        transformer: the denoiser; used as it is, in evaluation mode.
        vae: the decoder.
        scheduler: the sampler's schedule.
        embeds: embeddings of each prompt and negative prompt, (tokens, width).
    """

    def __init__(
        self,
        transformer: CogVideoXTransformer3DModel,
        vae: AutoencoderKLCogVideoX,
        scheduler: Any,
        embeds: dict[str, torch.Tensor],
    ):
        self.embeds = embeds
        self.pipeline = CogVideoXPipeline(
            tokenizer=None, text_encoder=None, vae=vae, transformer=transformer, scheduler=scheduler
        )
        self.pipeline.set_progress_bar_config(disable=True)

    @torch.no_grad()
    def sample(self, request: VideoRequest) -> np.ndarray:
        """Frames of a video: uint8, (frames, height, width, 3)."""
        transformer = self.pipeline.transformer
        dtype = transformer.dtype
        embed = {name: self.embeds[name][None].to(transformer.device, dtype) for name in _texts(request)}
        latents = self.pipeline(
            prompt_embeds=embed[request.prompt],
            negative_prompt_embeds=embed[request.negative_prompt],
            num_frames=request.num_frames,
            height=request.height,
            width=request.width,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            use_dynamic_cfg=request.dynamic_cfg,
            generator=torch.Generator().manual_seed(request.seed),
            max_sequence_length=embed[request.prompt].shape[1],
            output_type="latent",
        ).frames
        # With output_type="latent" the pipeline leaves in the frames that 1.5 was padded with.
        padding = latents.shape[1] - ((request.num_frames - 1) // self.pipeline.vae_scale_factor_temporal + 1)
        video = self.pipeline.decode_latents(latents[:, padding:].to(self.pipeline.vae.dtype))
        frames = self.pipeline.video_processor.postprocess_video(video, output_type="np")[0]
        return (frames * 255).round().astype(np.uint8)


def save_video(path: Path, frames: np.ndarray, request: VideoRequest, **about: Any) -> None:
    """Writes an mp4, and beside it a JSON file with how it was sampled."""
    write_video(path, frames, request.fps)
    write_json(path.with_suffix(".json"), {**asdict(request), **about})


def file_name(index: int, prompt: str) -> str:
    """A name for a video: its number keeps prompts that begin alike apart."""
    letters = "".join(letter if letter.isalnum() else "-" for letter in prompt.lower())
    slug = "-".join(part for part in letters.split("-") if part)[:48].rstrip("-")
    return f"{index:02d}-{slug or 'empty'}.mp4"


def _texts(request: VideoRequest) -> set[str]:
    return {request.prompt, request.negative_prompt}
