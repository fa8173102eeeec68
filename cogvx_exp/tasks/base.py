"""Interface of tasks. A new task is a subclass in its own file and a YAML file in conf/task."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from hydra.utils import get_class

from cogvx_exp.config.schema import Task as TaskSettings
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import read_json
from cogvx_exp.core.randomness import SampleRandomness
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.data.control.reading import ClipFrames
from cogvx_exp.data.control.recipes import Recipe
from cogvx_exp.data.factory_latents import LatentFiles
from cogvx_exp.diffusion.latents import LatentSpace

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Cached:
    """A tensor cached for each clip in addition to its latents: made from its frames, or the moments of a video."""

    part: str
    """Its name in the cache key."""
    imported: Callable[[LatentFiles], str]
    """Path of the corresponding tensor of a dataset encoded elsewhere (data=latents)."""
    make: Callable[[np.ndarray], torch.Tensor] | None = None
    """Creates it from the clip's frames, uint8, (F, height, width, 3)."""
    shape: Callable[[Bucket], tuple[int, ...]] | None = None
    """Its shape for clips of a bucket; entries of another shape are encoded again. None: that of the clip's moments."""
    video: Callable[[ClipFrames], np.ndarray] | None = None
    """Instead of `make`: the frames that the VAE encodes, like the clip's. The tensor is their moments."""
    uses_control: bool = False
    """Whether it depends on the control video (data.control)."""


@dataclass(frozen=True)
class Task:
    """Text-to-video, and the methods that other tasks override.

    Args:
        settings: the configuration group `task`.
    """

    settings: TaskSettings
    condition_channels: ClassVar[int] = 0
    """Channels of the condition, as a multiple of the latent channels."""

    @property
    def cached(self) -> Mapping[str, Cached]:
        """Cached tensors of a clip, by name."""
        return {}

    def about(self, transformer: Mapping[str, Any]) -> dict[str, Any]:
        """Information needed to use what was trained, stored with it. `transformer`: its configuration."""
        return {}

    @property
    def encoded_frames(self) -> int:
        """Frames per clip that the VAE encodes in each training step; if 0, it is not loaded during training."""
        return 0

    @property
    def given(self) -> Literal["text", "image", "control"]:
        """What sampling needs: only the prompt, or also a start image or a control video."""
        return "text"

    def hides(self, number: int) -> Recipe | None:
        """How the condition is made from a clip, if it is the clip with a part hidden; `number` chooses among them."""
        return None

    @property
    def label(self) -> str:
        """The task's name on the Hugging Face Hub."""
        return "text-to-video"

    @property
    def pipeline(self) -> str:
        """diffusers class that samples from the model."""
        return "CogVideoXPipeline"

    @property
    def latent_scale(self) -> str:
        """How latents of the condition are scaled (task.image_scale)."""
        return self.settings.image_scale or "auto"

    def in_channels(self, transformer: Mapping[str, Any]) -> int:
        """Input channels that a transformer of this configuration needs: its own, or more for the condition."""
        return max(int(transformer["in_channels"]), int(transformer["out_channels"]) * (1 + self.condition_channels))

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

    def needed(self, random: SampleRandomness) -> list[str]:
        """Names of the cached tensors that a sample uses; `random`: generators of the sample."""
        return list(self.cached)

    def draw(
        self, cached: Tensors, latents: torch.Tensor, random: SampleRandomness, space: LatentSpace
    ) -> dict[str, torch.Tensor]:
        """Random tensors of one sample, which become part of `Batch.extras`.

        Args:
            cached: the clip's tensors, by name in `Task.cached`.
            latents: latents of the clip, (F, C, H, W).
            random: generators of the sample.
            space: properties of the model.
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
