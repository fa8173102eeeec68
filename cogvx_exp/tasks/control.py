"""Tasks with a condition beside the text (`task=control`, `task=i2v`).

The condition's latents are concatenated with the noisy latents along the channels. `task.condition` says what they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch

from cogvx_exp.core.randomness import SampleRandomness
from cogvx_exp.data.control.recipes import Recipe
from cogvx_exp.diffusion.latents import LatentSpace
from cogvx_exp.tasks.base import Cached, Task, Tensors
from cogvx_exp.tasks.condition_video import ConditionVideo, HiddenPart, Masked, Prefix
from cogvx_exp.tasks.conditions import Condition
from cogvx_exp.tasks.first_frame import FirstFrame

CONDITIONS: dict[str, Condition] = {
    "first": FirstFrame(),
    "video": ConditionVideo(),
    "first_last": HiddenPart(),
    "prefix": Prefix(),
    "mask": Masked(),
}
"""By their names in `task.condition`."""


@dataclass(frozen=True)
class Control(Task):
    """`task=control`."""

    condition_channels: ClassVar[int] = 1

    @property
    def kind(self) -> Condition:
        """The condition."""
        return CONDITIONS[self.settings.condition or "first"]  # runs of earlier versions: task=i2v

    @property
    def cached(self) -> Mapping[str, Cached]:
        """What the condition is made from."""
        return self.kind.cached(self.settings)

    def about(self, transformer: Mapping[str, Any]) -> dict[str, Any]:
        """See `Task`."""
        return {"task": self.settings.model_dump(exclude_none=True), "in_channels": transformer["in_channels"]}

    @property
    def encoded_frames(self) -> int:
        """See `Task`."""
        return self.kind.encoded_frames

    @property
    def given(self) -> Literal["text", "image", "control"]:
        """See `Task`."""
        return self.kind.given

    def hides(self, number: int) -> Recipe | None:
        """See `Task`."""
        return self.kind.hides(self.settings, number)

    @property
    def label(self) -> str:
        """See `Task`."""
        return self.kind.label

    @property
    def pipeline(self) -> str:
        """See `Task`."""
        return self.kind.pipeline

    def needed(self, random: SampleRandomness) -> list[str]:
        """See `Task`."""
        return self.kind.needed(self.settings, random)

    def draw(
        self, cached: Tensors, latents: torch.Tensor, random: SampleRandomness, space: LatentSpace
    ) -> dict[str, torch.Tensor]:
        """See `Task`."""
        return self.kind.draw(cached, latents, random, self.settings, space)

    def condition(self, extras: Tensors, latents: torch.Tensor, vae: Any) -> torch.Tensor:
        """See `Task`."""
        return self.kind.latents(extras, latents, vae)

    def without_dropout(self) -> Task:
        """The task with the condition of every sample kept."""
        return replace(self, settings=self.settings.model_copy(update={"condition_dropout": 0.0}))
