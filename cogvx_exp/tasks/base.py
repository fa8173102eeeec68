"""Interface of tasks. A new task is a subclass in its own file and a YAML file in conf/task."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from hydra.utils import get_class

from cogvx_exp.config.schema import Task as TaskSettings
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import read_json
from cogvx_exp.core.randomness import SampleRandomness
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.data.factory_latents import LatentFiles

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Cached:
    """A tensor cached for each clip in addition to its latents."""

    part: str
    """Its name in the cache key."""
    make: Callable[[np.ndarray], torch.Tensor]
    """Creates it from the clip's frames, uint8, (F, height, width, 3)."""
    shape: Callable[[Bucket], tuple[int, ...]]
    """Its shape for clips of a bucket; entries of another shape are encoded again."""
    imported: Callable[[LatentFiles], str]
    """Path of the corresponding tensor of a dataset encoded elsewhere (data=latents)."""


@dataclass(frozen=True)
class Task:
    """Text-to-video, and the methods that other tasks override.

    Args:
        settings: the configuration group `task`.
    """

    settings: TaskSettings
    cached: ClassVar[Mapping[str, Cached]] = {}
    """Cached tensors of a clip, by name."""
    condition_channels: ClassVar[int] = 0
    """Channels of the condition, as a multiple of the latent channels."""
    encoded_frames: ClassVar[int] = 0
    """Frames per clip that the VAE encodes in each training step; if 0, the VAE is not loaded during training."""
    label: ClassVar[str] = "text-to-video"
    """The task's name on the Hugging Face Hub."""
    pipeline: ClassVar[str] = "CogVideoXPipeline"
    """diffusers class that samples from the model."""

    @property
    def latent_scale(self) -> str:
        """How latents of the condition are scaled (task.image_scale)."""
        return self.settings.image_scale or "auto"

    def check_model(self, folder: Path) -> None:
        """Checks that a pipeline's transformer has the input channels of this task.

        Raises:
            UserError: it has other input channels.
        """
        config = read_json(folder / "transformer" / "config.json")
        # By channels and not by name: a fine-tuned model may have any name, but its first layer fits one task only.
        needed = config["out_channels"] * (1 + self.condition_channels)
        if config["in_channels"] != needed:
            raise UserError(
                f"task={self.settings.name} needs a transformer with {needed} input channels, but the one in {folder} "
                f"has {config['in_channels']}; choose a model for this task"
            )

    def draw(self, cached: Tensors, latents: torch.Tensor, random: SampleRandomness) -> dict[str, torch.Tensor]:
        """Random tensors of one sample, which become part of `Batch.extras`.

        Args:
            cached: the clip's tensors, by name in `Task.cached`.
            latents: latents of the clip, (F, C, H, W).
            random: generators of the sample.
        """
        return {}

    def condition(self, extras: Tensors, latents: torch.Tensor, vae: Any) -> torch.Tensor | None:
        """The condition of a batch, shaped like its latents, float32, (B, F, C, H, W).

        Args:
            extras: the tensors from `draw`, with a first dimension of B.
            latents: clean latents of the batch.
            vae: the autoencoder; None if `encoded_frames` is 0.
        """
        return None

    def without_dropout(self) -> "Task":
        """The task for measuring the held-out loss, with nothing dropped."""
        return self


def build_task(settings: TaskSettings) -> Task:
    """Builds the task named by `task.target`.

    Raises:
        UserError: it is not set.
    """
    if settings.target is None:
        raise UserError(f"task.target=null: set it to the class of task={settings.name}, as in conf/task/*.yaml")
    task: Task = get_class(settings.target)(settings)
    return task
