"""Settings of `mode=split`."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from cogvx_exp.config.schema.section import FilledText, Section


class Split(Section):
    """How `mode=split` finds clips in long videos."""

    dataset_file: FilledText
    """Name of the manifest, below `data.root`. Rows that it already has are kept. Default: dataset.jsonl."""
    detector: Literal["adaptive", "content", "histogram", "hash"]
    """PySceneDetect's detector of cuts. adaptive: compares a frame's change with that of its neighbours, so fast
    motion is not a cut. content: the change alone. histogram: of brightness. hash: perceptual hashes.
    Default: adaptive."""
    threshold: PositiveFloat | None
    """How large the detector's measure must be at a cut. null: PySceneDetect's default. Default: null."""
    seconds: Annotated[list[PositiveFloat], Field(min_length=2, max_length=2)]
    """Minimum and maximum length of a clip. Longer scenes are divided evenly. Default: [2.0, 10.0]."""
    black: NonNegativeFloat
    """Brightness, of 255, below which pixels are black: frames without brighter ones are dropped. 0: keep them.
    Default: 24."""
    flash: NonNegativeFloat
    """Brightness, of 255, by which up to 3 frames must exceed those around them to be dropped as a flash. 0: keep them.
    Default: 40."""
    still: NonNegativeFloat
    """Mean change between consecutive frames, of 255, below which a second is dropped as still. 0: keep it.
    Default: 0.2."""
    crop_bars: bool
    """Whether black bars are cropped, by `crop` in the manifest. Default: true."""
    write: bool
    """Whether clips are written as files of their own, to `split.clips_dir`: packets are copied where that is exact,
    otherwise frames are encoded with H.264, CRF 12. Otherwise the manifest refers to parts of the videos.
    Default: false."""
    clips_dir: FilledText
    """write: folder of the clips, below `data.root`. Default: clips."""
    timeout: PositiveFloat
    """Time limit in seconds for one video. Default: 7200."""
