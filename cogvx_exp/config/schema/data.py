"""Group `data`: where the clips are and how they become training samples."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from cogvx_exp.config.schema.section import Section


class Data(Section):
    """Where the clips are and how they become training samples."""

    source: Literal["demo", "files", "csv"]
    """Form of the dataset; the choice of `data=` sets it."""
    root: str | None
    """Folder of the dataset. Paths in the dataset are relative to it. Default: null."""
    caption_column: str
    """files: name of the file with one caption a line. csv: column of the captions.
    Default: prompt.txt."""
    video_column: str
    """files: name of the file with one video path a line. csv: column of the video paths.
    Default: videos.txt."""
    dataset_file: str | None = None
    """csv: name of the table."""
    clips: PositiveInt | None = None
    """demo: how many clips are drawn."""
    id_token: str | None
    """Trigger word put in front of every caption, and of every validation prompt taken from them.
    Default: null."""
    caption_dropout: float = Field(ge=0, le=1)
    """Share of the samples trained with an empty caption, which guidance needs. Default: 0.1."""
    random_flip: float = Field(ge=0, le=1)
    """Probability of a mirrored clip. Default: 0.0."""
    skip_frames_start: NonNegativeInt
    """Frames left out at the beginning of every video. Default: 0."""
    skip_frames_end: NonNegativeInt
    """Frames left out at the end of every video. Default: 0."""
    fps: PositiveFloat | None
    """Frames a second at which a video is read, by time. null: the frames of a bucket are spread
    evenly over the whole video. Default: null."""
    max_num_frames: PositiveInt
    """Most frames of a training clip. Default: 49."""
    height_buckets: list[PositiveInt] = Field(min_length=1)
    """Heights in pixels; with the widths they form the sizes a clip may be resized to. Default: [480]."""
    width_buckets: list[PositiveInt] = Field(min_length=1)
    """Widths in pixels. Default: [720]."""
    frame_buckets: list[PositiveInt] = Field(min_length=1)
    """Numbers of frames. A clip goes to the largest that it fills. Default: [49]."""
    reshape: Literal["center", "resize", "random", "pad"]
    """How a clip is brought to its bucket's size: center (resize, then crop the middle), resize
    (distort), random (crop anywhere), pad (black borders). Default: center."""
    holdout: NonNegativeInt
    """Clips kept out of training to measure the held-out loss. Default: 0."""
    on_error: Literal["raise", "skip"]
    """What to do with clips that cannot be used: stop before any model loads, or go on without them.
    Default: raise."""
    encode: Literal["cache", "online"]
    """cache: encode every clip and caption once, before training. online: in the loop. Default: cache."""
    remainder: Literal["pad", "drop"]
    """Last batch of a bucket that is not full: filled with clips of the bucket, or dropped. Default: pad."""
    workers: NonNegativeInt
    """Processes that load samples. Default: 2."""
    pin_memory: bool
    """Whether batches are put in pinned memory, for faster copies to a GPU. Default: true."""
