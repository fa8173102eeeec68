"""Where results go in addition to the run folder: group `tracker`, exports, the Hub."""

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


class Export(Section):
    """The result of a run."""

    merge: bool
    """Whether an adapter is also merged into the base and written as a full transformer. Default: false."""


class Hub(Section):
    """Publishing the result to the Hugging Face Hub."""

    push: bool
    """Whether to upload the export after training. Default: false."""
    repo: str | None
    """Target repository, as owner/name. The token comes from the environment (HF_TOKEN) or the Hub's
    login. Default: null."""
    private: bool
    """Whether a new repository is private. Default: false."""
    dry_run: bool
    """Whether to only write the folder that would be uploaded (RUN/hub), with or without `push`. Default: false."""
