"""Clips whose frames carry their number, in blocks that survive compression, and what ffmpeg shows of them."""

import re
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
FRAMES, HEIGHT, WIDTH, RATE = 40, 64, 128, 25
BLOCK = 32
"""Pixels. Eight blocks, eight bits."""

ENCODERS: dict[str, tuple[str, ...]] = {
    "h264": ("-c:v", "libx264", "-g", "12"),
    "h264-no-b": ("-c:v", "libx264", "-g", "12", "-bf", "0"),
    "h264-open": ("-c:v", "libx264", "-x264-params", "open-gop=1:keyint=12:min-keyint=12:scenecut=0"),
    "h264-refresh": ("-c:v", "libx264", "-x264-params", "intra-refresh=1:keyint=12"),
    "hevc-open": ("-c:v", "libx265", "-g", "12", "-x265-params", "log-level=none"),
    "hevc": ("-c:v", "libx265", "-g", "12", "-x265-params", "log-level=none:open-gop=0"),
    "vp9": ("-c:v", "libvpx-vp9", "-g", "12", "-deadline", "realtime", "-cpu-used", "8"),
    "vp8": ("-c:v", "libvpx", "-auto-alt-ref", "1", "-lag-in-frames", "16", "-deadline", "good", "-cpu-used", "5"),
    "mpeg4": ("-c:v", "mpeg4", "-bf", "2", "-g", "12", "-q:v", "3"),
    "mpeg2": ("-c:v", "mpeg2video", "-bf", "2", "-g", "12", "-q:v", "3"),
}
VARIABLE_RATE = ("-vf", "setpts='(N+floor(N/3))/25/TB'", "-fps_mode", "vfr")


def make(path: Path, *encoding: str, rate: int = RATE, frames: int = FRAMES) -> Path:
    """Encodes the numbered frames."""
    bits = np.arange(frames)[:, None] >> np.arange(8) & 1
    blocks = (30 + 200 * bits).reshape(frames, HEIGHT // BLOCK, WIDTH // BLOCK).astype(np.uint8)
    raw = ("-f", "rawvideo", "-pix_fmt", "gray", "-s", f"{WIDTH}x{HEIGHT}", "-r", str(rate), "-i", "-")
    pixels = blocks.repeat(BLOCK, axis=1).repeat(BLOCK, axis=2).tobytes()
    command = [FFMPEG, "-y", "-v", "quiet", *raw, "-pix_fmt", "yuv420p", *encoding, str(path)]
    subprocess.run(command, input=pixels, check=True)
    return path


def copy(source: Path, target: Path, *options: str) -> Path:
    """Copies the packets of a clip, as a cut does that encodes nothing anew."""
    command = [FFMPEG, "-y", "-v", "quiet", *options, "-i", str(source), "-c", "copy", str(target)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return target


def shown(path: Path, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The frames that ffmpeg shows, uint8, (frames, height, width, 3), and their times in seconds from the first."""
    command = [FFMPEG, "-hide_banner", "-nostats", "-i", str(path), "-vf", "showinfo", "-fps_mode", "passthrough"]
    ran = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True)
    times = np.array([float(time) for time in re.findall(rb"pts_time:\s*([-\d.]+)", ran.stderr)])
    return np.frombuffer(ran.stdout, np.uint8).reshape(-1, *size, 3), times - times[0]


def number(frame: np.ndarray) -> int:
    """The number that a frame carries."""
    means = frame.reshape(HEIGHT // BLOCK, BLOCK, WIDTH // BLOCK, BLOCK, 3).mean((1, 3, 4)).reshape(-1)
    return int(((means > 128) << np.arange(8)).sum())
