"""Group `tracker`: where metrics go besides the run's folder."""

from typing import Literal

from cogvx_exp.config.schema.section import FilledText, Section


class Wandb(Section):
    """Weights & Biases."""

    project: FilledText
    """Project that the run belongs to."""
    entity: FilledText | None
    """User or team; null: the default one."""
    group: FilledText | None
    """Group of runs; null: the sweep's folder, if the run is part of one."""
    tags: list[str]
    """Tags of the run."""
    mode: Literal["online", "offline", "disabled"]
    """offline: written into the run's folder, for `wandb sync`."""
    videos: bool
    """Whether the validation's videos are sent."""


class TensorBoard(Section):
    """TensorBoard's event files."""

    videos: bool
    """Whether frames of the validation's videos are written, too."""


class Tracker(Section):
    """Where metrics go besides the run's folder."""

    wandb: Wandb | None = None
    """Weights & Biases."""
    tensorboard: TensorBoard | None = None
    """TensorBoard's event files."""
