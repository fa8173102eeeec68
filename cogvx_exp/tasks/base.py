"""What a task decides. A new one is a subclass in a file of its own, and a YAML in conf/task that names it."""

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
    """A tensor that the cache keeps for each clip besides its latents."""

    part: str
    """Its name in the key of the cache."""
    make: Callable[[np.ndarray], torch.Tensor]
    """Makes it from the clip's frames, uint8, (F, height, width, 3)."""
    shape: Callable[[Bucket], tuple[int, ...]]
    """Its shape for clips of a bucket; what is stored in another shape is made again."""
    imported: Callable[[LatentFiles], str]
    """Path of the tensor that stands for it where clips were encoded elsewhere (data=latents)."""


@dataclass(frozen=True)
class Task:
    """Text to video, and what other tasks can replace.

    Args:
        settings: the configuration group `task`.
    """

    settings: TaskSettings
    cached: ClassVar[Mapping[str, Cached]] = {}
    """What is cached for a clip, by name."""
    condition_channels: ClassVar[int] = 0
    """Channels of the condition that stand beside those of the noisy latents, in units of the latents' channels."""
    encoded_frames: ClassVar[int] = 0
    """Frames of a clip that the VAE encodes in each training step; with 0 it is not in memory while training."""
    label: ClassVar[str] = "text-to-video"
    """Name of the task on the Hugging Face Hub."""
    pipeline: ClassVar[str] = "CogVideoXPipeline"
    """Class of diffusers that samples from the model."""

    @property
    def latent_scale(self) -> str:
        """How the latents of a condition are scaled (task.image_scale)."""
        return self.settings.image_scale or "auto"

    def check_model(self, folder: Path) -> None:
        """Checks that the transformer of a pipeline takes what the task gives it.

        Raises:
            UserError: it has other input channels.
        """
        config = read_json(folder / "transformer" / "config.json")
        needed = config["out_channels"] * (1 + self.condition_channels)
        if config["in_channels"] != needed:
            raise UserError(
                f"task={self.settings.name} needs a transformer with {needed} input channels, but the one in {folder} "
                f"has {config['in_channels']}; choose a model for this task"
            )

    def draw(self, cached: Tensors, latents: torch.Tensor, random: SampleRandomness) -> dict[str, torch.Tensor]:
        """What is drawn at random for one sample, to become a part of `Batch.extras`.

        Args:
            cached: the clip's tensors, by their names in `Task.cached`.
            latents: of the clip, (F, C, H, W).
            random: keyed by the sample.
        """
        return {}

    def condition(self, extras: Tensors, latents: torch.Tensor, vae: Any) -> torch.Tensor | None:
        """The condition of a batch, shaped like its latents, float32, (B, F, C, H, W).

        Args:
            extras: what was drawn, with a first dimension of B.
            latents: clean latents of the batch.
            vae: the autoencoder; None where `encoded_frames` is 0.
        """
        return None

    def without_dropout(self) -> "Task":
        """The task as the held-out loss measures it."""
        return self


def build_task(settings: TaskSettings) -> Task:
    """The task that `task.target` names.

    Raises:
        UserError: it names none.
    """
    if settings.target is None:
        raise UserError(f"task.target=null: name the class of task={settings.name}, as conf/task/*.yaml do")
    task: Task = get_class(settings.target)(settings)
    return task
