"""Video files of all kinds, good and bad, made by the ffmpeg that imageio-ffmpeg brings."""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image

FRAMES, HEIGHT, WIDTH, FPS = 24, 48, 80, 8


def ffmpeg(*arguments: str | Path) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *map(str, arguments)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def draw_frames(folder: Path, count: int = FRAMES, height: int = HEIGHT, width: int = WIDTH) -> Path:
    """PNG frames whose brightness says which frame it is and whose left half is red; returns their pattern."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        image = np.full((height, width, 3), index * 240 // count, dtype=np.uint8)
        image[: height // 4, : width // 2] = (220, 20, 20)
        Image.fromarray(image).save(folder / f"{index:03d}.png")
    return folder / "%03d.png"


def make_zoo(folder: Path) -> None:
    """Writes every kind of file into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    source = ("-framerate", str(FPS), "-i", draw_frames(folder / "frames"))
    h264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "10", "-movflags", "+faststart")
    good = folder / "good.mp4"
    ffmpeg(*source, *h264, good)
    ffmpeg(*source, *h264, "-frames:v", "1", folder / "one-frame.mp4")
    ffmpeg(*source, *h264, "-frames:v", "5", folder / "short.mp4")
    ffmpeg("-framerate", "30", "-i", draw_frames(folder / "many", 90), *h264, folder / "fast.mp4")
    ffmpeg("-display_rotation", "90", "-i", good, "-c", "copy", folder / "rotated.mp4")
    odd = ("-framerate", str(FPS), "-i", draw_frames(folder / "odd", height=67, width=101))
    ffmpeg(*odd, "-c:v", "libx264", "-pix_fmt", "yuv444p", folder / "odd-size.mp4")
    ffmpeg(*source, "-c:v", "libx264", "-pix_fmt", "yuv420p10le", folder / "ten-bit.mp4")
    ffmpeg(*source, "-c:v", "libvpx-vp9", "-b:v", "0", "-crf", "20", folder / "vp9.webm")
    ffmpeg(*source, "-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p", folder / "alpha.webm")
    ffmpeg(*source, folder / "animation.gif")
    # Every third frame is shown twice as long.
    ffmpeg("-i", good, "-vf", "setpts='(N+floor(N/3))/8/TB'", "-fps_mode", "vfr", *h264, folder / "variable-rate.mp4")
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", folder / "audio-only.mp4")
    small = ("-framerate", str(FPS), "-i", draw_frames(folder / "small", height=32, width=48))
    ffmpeg(*small, *h264, folder / "small.mp4")
    content = good.read_bytes()
    data = content.index(b"mdat")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "header-only.mp4").write_bytes(content[: data + 4])
    (folder / "cut.mp4").write_bytes(content[: data + (len(content) - data) * 2 // 3])
    (folder / "text.mp4").write_text("this is no video\n" * 50)
    (folder / "folder.mp4").mkdir(exist_ok=True)
    damaged = bytearray(content)
    middle = data + (len(content) - data) // 2
    damaged[middle : middle + 200] = bytes(200)
    (folder / "damaged.mp4").write_bytes(bytes(damaged))
    no_samples = content.replace(b"stsz", b"free", 1)
    (folder / "no-frames.mp4").write_bytes(no_samples)
