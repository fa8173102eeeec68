"""Interface of the conditions of a task (`task.condition`): latents beside the noisy ones."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Protocol

import torch

from cogvx_exp.config.schema import Task as TaskSettings
from cogvx_exp.core.randomness import SampleRandomness
from cogvx_exp.data.control.recipes import Recipe
from cogvx_exp.diffusion.latents import LatentSpace
from cogvx_exp.tasks.base import Cached, Tensors


class Condition(Protocol):
    """A kind of condition; it has no state."""

    encoded_frames: ClassVar[int] = 0
    """As in `Task`."""
    given: ClassVar[Literal["image", "control"]]
    """As in `Task`."""
    label: ClassVar[str]
    """As in `Task`."""
    pipeline: ClassVar[str]
    """As in `Task`."""

    def cached(self, settings: TaskSettings) -> Mapping[str, Cached]:
        """As in `Task`."""
        ...

    def needed(self, settings: TaskSettings, random: SampleRandomness) -> list[str]:
        """As in `Task`."""
        return list(self.cached(settings))

    def hides(self, settings: TaskSettings, number: int) -> Recipe | None:
        """As in `Task`."""
        return None

    def draw(
        self,
        cached: Tensors,
        latents: torch.Tensor,
        random: SampleRandomness,
        settings: TaskSettings,
        space: LatentSpace,
    ) -> dict[str, torch.Tensor]:
        """As in `Task`."""
        ...

    def latents(self, extras: Tensors, latents: torch.Tensor, vae: Any) -> torch.Tensor:
        """The condition of a batch, shaped like its latents."""
        ...
