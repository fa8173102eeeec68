"""Videos sampled during training."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import CogVideoXTransformer3DModel
from PIL import Image

from cogvx_exp.config.rules.scores import scores_of
from cogvx_exp.config.schema import Model, TrainJob
from cogvx_exp.console.progress import progress
from cogvx_exp.data.dataset import Clip
from cogvx_exp.evaluation.sampling import Sampler, VideoRequest, control_of, file_name, image_of, save_video
from cogvx_exp.evaluation.scores.base import Score, build_scores, mean_scores, score_video
from cogvx_exp.evaluation.scores.training_clips import TrainingClips
from cogvx_exp.evaluation.scores.video import absent_inputs, scored_video
from cogvx_exp.latents.context import PipelineContext
from cogvx_exp.model.device import release
from cogvx_exp.model.load import load_scheduler, load_vae


@dataclass(frozen=True)
class SampledVideos:
    """The videos of a validation."""

    paths: list[Path]
    scores: dict[str, float]
    """Mean of each score over the videos."""


def validation_scores(job: TrainJob, requests: list[VideoRequest], clips: list[Clip]) -> dict[str, Score]:
    """The scores of the validation videos; those that lack their input are left out.

    Args:
        job: the configuration.
        requests: the videos.
        clips: the training clips.

    Raises:
        UserError: a score cannot be built, or was switched on and lacks its input.
    """
    no_clips = "the frames of training clips, which data=latents does not have"
    absent = absent_inputs(requests, None if any(not clip.latents for clip in clips) else no_clips)
    noted = {"clips", "condition"} if job.task.name == "control" else {"clips"}
    return build_scores(scores_of(job), "validation.scores", absent, noted)


@dataclass(frozen=True)
class Validator:
    """Samples a fixed list of videos."""

    requests: list[VideoRequest]
    embeds: dict[str, torch.Tensor]
    """Embeddings of each prompt and negative prompt, (tokens, width)."""
    model: Model
    context: PipelineContext
    """The pipeline, its settings, and the processes that share the videos."""
    offload: bool = False
    """Whether the transformer leaves the GPU while the VAE decodes."""
    scores: Mapping[str, Score] = field(default_factory=dict)
    """Scores of each video, by name."""
    clips: TrainingClips | None = None
    """The training clips, if a score asks for them."""

    _written: set[VideoRequest] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.images, self.controls  # noqa: B018, read early: files or servers may be gone later

    @cached_property
    def images(self) -> dict[VideoRequest, Image.Image]:
        """Start images of the videos."""
        return {request: image_of(request) for request in self.requests if request.image}

    @cached_property
    def controls(self) -> dict[VideoRequest, np.ndarray]:
        """Condition videos, (frames, height, width, 3)."""
        return {request: control_of(request) for request in self.requests if request.control}

    def write_conditions(self, folder: Path) -> None:
        """Writes the condition videos, named like the sampled ones, once."""
        for index, request in enumerate(self.requests):
            path = folder / file_name(index, request.prompt)
            if request in self.controls and request not in self._written:
                save_video(path, self.controls[request], request)
                self._written.add(request)

    def run(self, transformer: CogVideoXTransformer3DModel, folder: Path, step: int, **about: Any) -> SampledVideos:
        """Samples all videos into `folder`, with `about` in their settings. The VAE is loaded for this and released.

        Each process samples its share. All sample equally many (repeating the last ones if necessary), since a sharded
        model needs all processes for every pass.

        The transformer is returned to its previous mode (training or evaluation).
        """
        was_training = transformer.training
        transformer.eval()
        context, compute, processes = self.context, self.context.compute, self.context.processes
        # Loaded each time: kept, it would cost its memory during all of training.
        vae = load_vae(context.folder, compute, context.memory, context.task.latent_scale)
        scheduler = load_scheduler(context.folder, self.model.sampling.scheduler)
        sampler = Sampler(
            transformer,
            vae,
            scheduler,
            self.embeds,
            compute,
            offload=self.offload,
            images=self.images,
            controls=self.controls,
            controlled=bool(self.controls),
        )
        paths = [folder / file_name(index, request.prompt) for index, request in enumerate(self.requests)]
        rounds = -(-len(paths) // processes.world_size)
        latents: dict[int, torch.Tensor] = {}
        scores: list[dict[str, float]] = []
        try:
            if self.controls:
                with sampler.without_transformer():
                    sampler.encode_conditions(self.requests)
            for number in progress(f"Sampling at step {step}", range(rounds)):
                index = number * processes.world_size + processes.rank
                # All latents first, then all decoding: the model and the VAE's activations are never needed at once.
                latents[index] = sampler.sample_latents(self.requests[min(index, len(paths) - 1)])
            with sampler.without_transformer():  # only once, as offloading may take longer than decoding
                for index in (index for index in latents if index < len(paths)):
                    frames = sampler.decode(latents[index])
                    video = scored_video(frames, self.requests[index], self.images, self.controls, self.clips)
                    scores.append(score_video(self.scores, video))
                    with_scores = {"scores": scores[-1]} if self.scores else {}
                    save_video(paths[index], frames, self.requests[index], step=step, **with_scores, **about)
        finally:
            # Also after an error: a later step in evaluation mode would run without dropout.
            transformer.train(was_training)
            del sampler, vae
            release(compute.device)
        # Also a barrier: the page and the trackers read the videos of all processes next.
        gathered = processes.all_gather(scores)
        return SampledVideos(paths, mean_scores(video for of_process in gathered for video in of_process))
