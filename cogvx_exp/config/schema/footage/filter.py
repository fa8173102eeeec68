"""Settings of `mode=filter`."""

from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from cogvx_exp.config.schema.section import Section

Range = Annotated[list[NonNegativeFloat], Field(min_length=2, max_length=2)]


class Filter(Section):
    """Which clips `mode=filter` keeps. null: that score does not matter."""

    sharpness: NonNegativeFloat | None
    """Minimum of the variance of the Laplacian, of frames at most 480 pixels high. Default: 10.0."""
    exposure: Range | None
    """Minimum and maximum of the mean brightness; 0 is black, 1 is white. Default: [0.08, 0.92]."""
    motion: Range | None
    """Minimum and maximum of the mean optical flow (Farneback), percent of the picture's height per second.
    Default: [0.5, 300.0]."""
    cuts: NonNegativeInt | None
    """Maximum number of cuts within a clip, found by `split.detector`. Default: 0."""
    text: float | None = Field(ge=0, le=1)
    """Maximum share of the picture's area that text covers in one of 8 frames; 0.01 excludes most subtitles. Needs the
    extra footage-text. Default: null."""
    duplicates: int | None = Field(ge=0, le=11)
    """Maximum number of different bits, of the 192 of three perceptual hashes, at which two clips are near-duplicates;
    the first one is kept. Default: 8."""
    timeout: PositiveFloat
    """Time limit in seconds for one clip. Default: 600."""
