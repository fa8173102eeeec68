"""Group `tracker`: where metrics go in addition to the run folder."""

from typing import Literal

from pydantic import Field

from cogvx_exp.config.schema.section import FilledText, Named, Section


class Wandb(Section):
    """Weights & Biases."""

    project: FilledText
    """Project of the run."""
    entity: FilledText | None
    """User or team; null: the default."""
    group: FilledText | None
    """Group of runs; null: the sweep's folder, if the run is part of one."""
    tags: list[str]
    """Tags of the run."""
    mode: Literal["online", "offline", "disabled"]
    """offline: written to the run folder, for `wandb sync`."""
    videos: bool
    """Whether to upload the validation videos."""


class Trackio(Section):
    """Trackio, with its database on this machine."""

    project: FilledText
    """Project of the run, as in `trackio show --project NAME`."""
    group: FilledText | None
    """Group of runs; null: the sweep's folder, if the run is part of one."""
    space: FilledText | None
    """Hugging Face Space to log to, as owner/name; a new one is private. null: this machine, below `TRACKIO_DIR`."""
    videos: bool
    """Whether to also keep the validation videos."""


class TensorBoard(Section):
    """TensorBoard's event files."""

    videos: bool
    """Whether to also log frames of the validation videos."""


class Tracker(Section):
    """Where metrics go in addition to the run folder."""

    wandb: Wandb | None = None
    """Weights & Biases."""
    trackio: Trackio | None = None
    """Trackio."""
    tensorboard: TensorBoard | None = None
    """TensorBoard's event files."""
    custom: Named = Field(default_factory=dict)
    """Trackers of your own: {NAME: {target: IMPORT_PATH, kwargs: {}}}. Default: {}."""
