"""Group `data`: where the clips are and how they become training samples."""

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from cogvx_exp.config.choices import composed
from cogvx_exp.config.schema.section import Allowed, FilledText, Imported, PathText, Section


class Source(Section):
    """Where clips and captions are."""

    source: Literal["demo", "files", "csv", "jsonl", "folder", "hub", "latents", "custom"]
    """Format of the dataset, set by the choice of `data=`."""
    root: PathText | None = None
    """Folder of the dataset; paths are relative to it. hub: the repository, as owner/name. Default: null."""
    caption_column: PathText = "prompt.txt"
    """files: file with one caption per line. csv, jsonl: column with the captions. Default: prompt.txt."""
    video_column: PathText = "videos.txt"
    """files: file with one video path per line. csv, jsonl: column with the paths. Default: videos.txt."""
    control_column: PathText = "controls.txt"
    """Control videos. files: file with one path per line. csv, jsonl: column with the paths. folder: the word in
    names such as NAME.control.mp4. Default: controls.txt."""
    mask_column: PathText = "masks.txt"
    """Mask videos (white where the clip is hidden), named like control_column. Default: masks.txt."""
    dataset_file: PathText | None = None
    """csv, jsonl: name of the table."""
    form: Literal["files", "csv", "jsonl", "folder"] | None = None
    """hub: format of the dataset in the repository."""
    revision: FilledText | None = None
    """hub: branch, tag or commit."""
    reader: Imported | None = None
    """custom: {target: IMPORT_PATH, kwargs: {}} of a function that maps the root, a Path, to pairs of a video's path
    and its caption or captions."""
    clips: PositiveInt | None = None
    """demo: number of clips of the concept, and of ordinary clips. Default: 22."""
    concept: Literal["none", "sketch", "cross", "diagonally"] | None = None
    """demo: what the tiny model has not seen. sketch: a style, with the trigger word SKETCH. cross: a shape.
    diagonally: a motion. none: ordinary clips only. Default: sketch."""
    drawn: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    """demo: frames, height and width of the clips, pixels."""
    id_token: FilledText | None = None
    """Trigger word prepended to every caption. Default: null."""
    repeats: PositiveFloat = 1.0
    """How often each clip is seen per epoch. Default: 1.0."""


class MixedSource(Source):
    """One of several sources that are mixed."""

    weight: NonNegativeFloat | None = None
    """Fraction of the samples from this source, relative to the other weights. An epoch still has as many samples as
    there are clips. Set it for all sources or for none."""


class Data(Source):
    """Where the clips are and how they become training samples."""

    source: Literal[  # type: ignore[assignment]
        "demo", "files", "csv", "jsonl", "folder", "hub", "latents", "custom", "mix"
    ]
    """Format of the dataset, set by the choice of `data=`."""
    sources: list[MixedSource] | None = None
    """mix: the sources, each with a `source` (its format), a `root` and its other settings."""
    allow_outside_root: bool = False
    """Whether videos may lie outside `root`. Default: false."""
    control: FilledText | None = None
    """Where the control videos of task=control come from. files: the videos of control_column. masks: those of
    mask_column. canny, gray, blur, downscale or an import path: computed from the clip's frames. null: files, if the
    task needs control videos. Default: null."""
    control_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of a computed control, such as `+data.control_kwargs.low=50` for canny. Default: {}."""
    control_images: bool = False
    """Whether images are accepted as control videos, as still ones. Default: false."""
    caption_dropout: float = Field(ge=0, le=1)
    """Fraction of the samples trained with an empty caption, for classifier-free guidance. Default: 0.1."""
    random_flip: float = Field(ge=0, le=1)
    """Probability of flipping a clip horizontally. With encode=cache every clip is encoded twice. Default: 0.0."""
    skip_frames_start: NonNegativeInt
    """Frames skipped at the beginning of every video. Default: 0."""
    skip_frames_end: NonNegativeInt
    """Frames skipped at the end of every video. Default: 0."""
    fps: PositiveFloat | None
    """Frames per second at which a video is sampled. null: the frames of a bucket are spread evenly over the whole
    video. Default: null."""
    max_num_frames: PositiveInt
    """Maximum frames of a training clip. Default: 49."""
    height_buckets: list[PositiveInt] = Field(min_length=1)
    """Heights in pixels; with the widths they define the sizes clips are resized to. Default: [480]."""
    width_buckets: list[PositiveInt] = Field(min_length=1)
    """Widths in pixels. Default: [720]."""
    frame_buckets: list[PositiveInt] = Field(min_length=1)
    """Numbers of frames. A clip goes to the largest one it can fill. Default: [49]."""
    reshape: Literal["center", "resize", "random", "pad"]
    """How a clip is resized to its bucket: center (scale, then center crop), resize (stretch), random (random crop;
    needs encode=online), pad (black borders). Default: center."""
    holdout: Annotated[
        NonNegativeInt | float | list[FilledText],
        Allowed("a count, a fraction below 1, or a list of paths below data.root, written [A,B]"),
    ]
    """Clips kept out of training: a count, a fraction below 1, or their paths below the root.
    All rows of a video are held out together. Default: 0."""
    on_error: Literal["raise", "skip"]
    """What to do about unusable clips: stop before any model is loaded, or continue without them.
    Default: raise."""
    encode: Literal["cache", "online"]
    """cache: encode every clip once, before training. online: in the training loop, with fresh crops and flips;
    captions are still cached. Default: cache."""
    encode_batch_size: PositiveInt
    """Clips of one bucket per VAE batch. Default: 1."""
    remainder: Literal["pad", "drop"]
    """Incomplete last batch of a bucket: pad fills it with clips of the bucket, drop discards it. Default: pad."""
    workers: NonNegativeInt
    """Processes that load samples during training. Default: 2."""
    decode_workers: PositiveInt
    """Processes that decode videos. Default: 2."""
    decode_timeout: PositiveFloat
    """Time limit in seconds for decoding one clip. Default: 120."""
    pin_memory: bool
    """Whether batches and decoded clips are copied to pinned memory, for faster copies to a GPU. Default: true."""

    @model_validator(mode="before")
    @classmethod
    def _complete_sources(cls, values: Any) -> Any:
        """A source of a mix has what the file of its form in conf/data/ gives to one alone, but for the root."""
        if not isinstance(values, dict) or not isinstance(values.get("sources"), list):
            return values
        return values | {"sources": [_completed(source, values) for source in values["sources"]]}

    def control_of(self, source: Source) -> str | None:
        """The column, file or word that names a source's control videos; None if none are read."""
        names = {"files": source.control_column, "masks": source.mask_column}
        return None if source.source == "latents" else names.get(self.control or "")

    def all_sources(self) -> list[MixedSource]:
        """The sources: all of a mix, or the single one described by the settings."""
        if self.sources is not None:
            return self.sources
        own = {name: getattr(self, name) for name in Source.model_fields}
        return [MixedSource.model_validate(own)]


def _completed(source: Any, data: dict[str, Any]) -> Any:
    """A source with the defaults of its form."""
    form = source.get("source") if isinstance(source, dict) else None
    if form not in get_args(Source.model_fields["source"].annotation):
        return source
    defaults = {name: value for name, value in composed("data", form).items() if name in Source.model_fields}
    del defaults["root"]
    return _resolved(defaults, data) | source


def _resolved(value: Any, data: dict[str, Any]) -> Any:
    """A value of a file, with the values that `${data.NAME}` stands for."""
    if isinstance(value, dict):
        return {name: _resolved(item, data) for name, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, data) for item in value]
    reference = re.fullmatch(r"\$\{data\.(\w+)\}", value) if isinstance(value, str) else None
    return data.get(reference[1]) if reference else value
