"""A picture is as a player shows it: square pixels, upright, not mirrored, not combed; HDR is refused."""

import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogvx_exp.data.issues import ClipError
from cogvx_exp.media.video import open_video, probe_video
from tests.numbered import FFMPEG, shown
from tests.zoo import ffmpeg

SOURCE = ("-f", "lavfi", "-i", "testsrc2=s=128x64:r=25:d=0.4")
TURNS = {
    "90": ("-display_rotation", "90"),
    "180": ("-display_rotation", "180"),
    "270": ("-display_rotation", "270"),
    "mirrored": ("-display_hflip",),
    "upside down": ("-display_vflip",),
    "mirrored, 90": ("-display_rotation", "90", "-display_hflip"),
    "mirrored, 270": ("-display_rotation", "270", "-display_hflip"),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "plain.mp4"
    ffmpeg(*SOURCE, "-c:v", "libx264", path)
    return path


@pytest.mark.parametrize("turn", TURNS)
def test_rotated_and_mirrored_clips_are_upright(turn: str, plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "turned.mp4"
    ffmpeg(*TURNS[turn], "-i", plain, "-c", "copy", path)
    video = open_video(str(path))
    assert video.size == ((128, 64) if "90" in turn or "270" in turn else (64, 128))
    frames, _ = shown(path, video.size)
    for found, frame in zip(video.frames(range(len(frames))), frames, strict=True):
        assert np.abs(found.astype(int) - frame).mean() < 1
    assert ("mirrored" in video.decoder) == (turn not in ("90", "180", "270"))


@pytest.mark.parametrize(
    ("aspect", "turn", "size"),
    [("2/1", (), (64, 256)), ("1/2", (), (128, 128)), ("2/1", ("-display_rotation", "90"), (256, 64))],
)
def test_pixels_become_square(
    aspect: str, turn: tuple[str, ...], size: tuple[int, int], plain: Path, tmp_path: Path
) -> None:
    coded, path = tmp_path / "coded.mp4", tmp_path / "anamorphic.mp4"
    ffmpeg(*SOURCE, "-vf", f"setsar={aspect}", "-c:v", "libx264", coded)
    ffmpeg(*turn, "-i", coded, "-c", "copy", path)
    info = probe_video(str(path))
    assert (info.height, info.width) == size
    frame = next(open_video(str(path)).frames([5]))
    assert frame.shape[:2] == size
    unscaled = Image.fromarray(next(open_video(str(plain)).frames([5])))
    if turn:
        unscaled = unscaled.transpose(Image.Transpose.ROTATE_90)
    expected = np.asarray(unscaled.resize(size[::-1], Image.Resampling.BICUBIC), dtype=int)
    assert np.abs(frame - expected).mean() < 8


def combing(frame: np.ndarray) -> float:
    """How much each line differs from the two around it, which do not differ from each other."""
    lines = frame.astype(float)
    return float(np.maximum(np.abs(lines[1:-1] - lines[:-2]) - np.abs(lines[2:] - lines[:-2]), 0).mean())


@pytest.mark.parametrize(
    ("name", "codec"),
    [("clip.mp4", "libx264"), ("clip.mpg", "mpeg2video"), ("clip.ts", "libx264"), ("clip.mkv", "ffv1")],
)
def test_interlaced_clips_are_not_combed(name: str, codec: str, tmp_path: Path) -> None:
    moving = (
        "-f",
        "lavfi",
        "-i",
        "color=white:s=128x64:r=50:d=0.5[w];color=black:s=16x64:r=50[b];[w][b]overlay=x=n*4:shortest=1",
    )
    moving = (*moving[:3], moving[3] + ",tinterlace=interleave_top,setfield=tff")
    path = tmp_path / name
    ffmpeg(*moving, "-flags", "+ilme+ildct", "-c:v", codec, path)
    video = open_video(str(path))
    raw, times = shown(path, video.size)
    assert video.starts == pytest.approx(times, abs=0.0011)
    assert "interlaced" in video.decoder
    frames = list(video.frames(range(len(raw))))
    assert len(frames) == len(raw)
    assert np.mean([combing(frame) for frame in raw]) > 5
    assert np.mean([combing(frame) for frame in frames]) < 1
    places = [np.average(np.arange(128), weights=255 - frame.mean((0, 2))) for frame in frames[2:12]]
    assert np.diff(places) == pytest.approx(8, abs=2), "a frame for a frame, in order: the bar moves 8 pixels in each"
    (alone,) = video.frames([7])
    assert np.array_equal(alone, frames[7])


TO_HDR = "format=gbrp16le,zscale=tin=bt709:pin=bt709:min=gbr:rin=full:t={}:p=bt2020:m=bt2020nc:r=tv:npl=100"


@pytest.mark.parametrize(("name", "transfer"), [("PQ", "smpte2084"), ("HLG", "arib-std-b67")])
@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
def test_hdr_is_refused_with_the_line_that_converts_it(
    name: str, transfer: str, container: str, plain: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"hdr.{container}"
    x265 = f"log-level=none:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc"
    bright = TO_HDR.format(transfer) + ",format=yuv420p10le"
    ffmpeg("-i", plain, "-vf", bright, "-c:v", "libx265", "-x265-params", x265, path)
    with pytest.raises(ClipError, match=rf"is HDR \({name}\)") as raised:
        probe_video(str(path))
    if container == "mp4":
        line = re.search(r"\(ffmpeg (.*) NEW.mp4\)", raised.value.fix)
        assert line
        command = [FFMPEG, "-v", "error", *shlex.split(line[1].replace("FILE", str(path))), str(tmp_path / "new.mp4")]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        old, new = (np.stack(list(open_video(str(p)).frames([0, 5]))) for p in (plain, tmp_path / "new.mp4"))
        assert np.abs(old.astype(int) - new).mean() < 40, "standard brightness again, if not to the bit"
        assert np.corrcoef(old.ravel(), new.ravel())[0, 1] > 0.9
