"""Samples videos with the diffusers pipelines, from cached prompt embeddings."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from cogvx_exp.config.schema.training import SamplingSettings
from cogvx_exp.core.files import write_json
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.data.start_image import start_image
from cogvx_exp.evaluation.conditioned import condition_added, condition_frames, encode_condition
from cogvx_exp.media.video import write_video
from cogvx_exp.model.device import Compute
from cogvx_exp.model.offload.module import on_host
from cogvx_exp.model.positions import Rotary, rotary_positions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoRequest:
    """A video to sample: everything that determines it apart from the weights."""

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
    image: str | None = None
    """i2v: path, URL or `first frame of VIDEO`."""
    reshape: str = "center"
    """How the image or the control video is resized, like data.reshape."""
    control: str | None = None
    """control: path of a video, or `RECIPE of VIDEO`."""
    control_times: tuple[float, ...] | None = None
    """Times of the control's frames in seconds; None: spread over the video."""


@dataclass(frozen=True)
class Given:
    """What a prompt's videos are conditioned on besides the text."""

    image: str | None = None
    control: str | None = None
    control_times: tuple[float, ...] | None = None


def video_requests(
    settings: SamplingSettings,
    prompts: list[str],
    num_videos: int = 1,
    given: Sequence[Given] | None = None,
    reshape: str = "center",
) -> list[VideoRequest]:
    """Requests for all prompts; video i of a prompt has seed + i.

    Args:
        settings: shape and sampling settings.
        prompts: the prompts.
        num_videos: videos per prompt.
        given: conditions, one per prompt.
        reshape: how images and control videos are resized.
    """
    shared = settings.model_dump(
        include={"negative_prompt", "num_frames", "height", "width", "fps"}
        | {"num_inference_steps", "guidance_scale", "dynamic_cfg"}
    )
    return [
        VideoRequest(prompt=prompt, seed=settings.seed + index, reshape=reshape, **asdict(condition), **shared)
        for prompt, condition in zip(prompts, given or [Given()] * len(prompts), strict=True)
        for index in range(num_videos)
    ]


def image_of(request: VideoRequest) -> Image.Image:
    """The start image, resized to the video, so the pipeline does not stretch it.

    Raises:
        UserError: it cannot be opened.
    """
    assert request.image
    return start_image(request.image, Bucket(request.num_frames, request.height, request.width), request.reshape)


def control_of(request: VideoRequest) -> np.ndarray:
    """The condition video, resized to the video: uint8, (frames, height, width, 3).

    Raises:
        UserError: it cannot be read.
    """
    assert request.control
    bucket = Bucket(request.num_frames, request.height, request.width)
    return condition_frames(request.control, request.control_times, bucket, request.reshape)


class Sampler:
    """Samples latents and decodes them.

    Args:
        transformer: the transformer, in evaluation mode.
        vae: the decoder and, for image-to-video, encoder.
        scheduler: the sampler.
        embeds: embeddings of each prompt and negative prompt, (tokens, width).
        compute: device and dtype.
        offload: whether the transformer leaves the GPU while the VAE decodes.
        images: results of `image_of` for images that were already read.
        controls: results of `control_of` for control videos that were already read.
        controlled: whether the videos have control videos, not images.
    """

    def __init__(
        self,
        transformer: CogVideoXTransformer3DModel,
        vae: AutoencoderKLCogVideoX,
        scheduler: Any,
        embeds: dict[str, torch.Tensor],
        compute: Compute,
        *,
        offload: bool = False,
        images: Mapping[VideoRequest, Image.Image] | None = None,
        controls: Mapping[VideoRequest, np.ndarray] | None = None,
        controlled: bool = False,
    ):
        self.images, self.controls = images or {}, controls or {}
        self._conditions: dict[VideoRequest, torch.Tensor] = {}
        self.embeds = embeds
        self.compute = compute
        # Without a GPU, device and host memory are the same.
        self.offload = offload and compute.device.type == "cuda"
        # By channels: the configuration of a pipeline does not say which task a transformer is for.
        takes_image = transformer.config.in_channels > transformer.config.out_channels and not controlled
        pipeline = CogVideoXImageToVideoPipeline if takes_image else CogVideoXPipeline
        self.pipeline = pipeline(
            tokenizer=None, text_encoder=None, vae=vae, transformer=transformer, scheduler=scheduler
        )
        self.pipeline.set_progress_bar_config(disable=True)
        # Not a method of this object: a reference cycle would keep the VAE on the device until garbage collection.
        self.pipeline._prepare_rotary_positional_embeddings = partial(
            _rotary, transformer.config, self.pipeline.vae_scale_factor_spatial
        )

    @torch.no_grad()
    def sample(self, request: VideoRequest) -> np.ndarray:
        """Frames of a video: uint8, (frames, height, width, 3)."""
        latents = self.sample_latents(request)
        with self.without_transformer():
            return self.decode(latents)

    def without_transformer(self) -> AbstractContextManager[None]:
        """Keeps the transformer in host memory inside the block, with offload."""
        return on_host(self.pipeline.transformer, self.compute.device) if self.offload else nullcontext()

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Decodes latents, (1, frames, channels, height, width): uint8, (frames, height, width, 3)."""
        video = self.pipeline.decode_latents(latents.to(self.pipeline.vae.dtype))
        # As numpy: PIL images would be converted back and forth for nothing.
        frames = self.pipeline.video_processor.postprocess_video(video, output_type="np")[0]
        # Rounded: truncation would darken every video by half a step.
        return (frames * 255).round().astype(np.uint8)

    def encode_conditions(self, requests: Sequence[VideoRequest]) -> None:
        """Encodes the control videos of these requests, so that the transformer need not be there at that time."""
        for request in requests:
            if request.control and request not in self._conditions:
                frames = self.controls[request] if request in self.controls else control_of(request)
                self._conditions[request] = encode_condition(
                    frames, self.pipeline.vae, self.pipeline.transformer.config
                )

    @torch.no_grad()
    def sample_latents(self, request: VideoRequest) -> torch.Tensor:
        """Latents of a video, (1, frames, channels, height, width)."""
        device, dtype = self.compute.device, self.compute.dtype
        texts = (request.prompt, request.negative_prompt)
        embed = {text: self.embeds[text][None].to(device, dtype) for text in texts}
        given: dict[str, Any] = {}
        condition: AbstractContextManager[None] = nullcontext()
        if request.image:
            given["image"] = self.images.get(request) or image_of(request)
        generator = torch.Generator().manual_seed(request.seed)  # on the CPU: the same noise on every device
        if request.control:
            self.encode_conditions([request])
            condition = condition_added(self.pipeline.transformer, self._conditions[request])
            # Drawn here, because the pipeline would draw as many channels as the transformer's input has.
            shape = self._conditions[request].shape
            given["latents"] = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        with self.compute.autocast(), condition:
            latents: torch.Tensor = self.pipeline(
                **given,
                prompt_embeds=embed[request.prompt],
                negative_prompt_embeds=embed[request.negative_prompt],
                num_frames=request.num_frames,
                height=request.height,
                width=request.width,
                num_inference_steps=request.num_inference_steps,
                guidance_scale=request.guidance_scale,
                use_dynamic_cfg=request.dynamic_cfg,
                generator=generator,
                max_sequence_length=embed[request.prompt].shape[1],
                output_type="latent",
            ).frames
        logger.debug("sampled latents %s for %r", tuple(latents.shape), request.prompt)
        # With output_type="latent" the pipeline does not remove the frames that 1.5 is padded with.
        padding = latents.shape[1] - ((request.num_frames - 1) // self.pipeline.vae_scale_factor_temporal + 1)
        return latents[:, padding:]


def _rotary(config: dict, factor: int, height: int, width: int, num_frames: int, device: torch.device) -> Rotary | None:
    """Replaces the pipeline's own method: same results, but also correct for portrait videos of 1.5."""
    return rotary_positions(config, (num_frames, height // factor, width // factor), device)


def save_video(path: Path, frames: np.ndarray, request: VideoRequest, **about: Any) -> None:
    """Writes an mp4, and a JSON file with its settings next to it."""
    write_video(path, frames, request.fps)
    write_json(path.with_suffix(".json"), {**asdict(request), **about})


def file_name(index: int, prompt: str) -> str:
    """A file name for a video: the number distinguishes prompts with the same start."""
    letters = "".join(letter if letter.isalnum() else "-" for letter in prompt.lower())
    slug = "-".join(part for part in letters.split("-") if part)[:48].rstrip("-")
    return f"{index:02d}-{slug or 'empty'}.mp4"
