"""Start images of image-to-video, resized like the first frames in training.

Does not need torch, so an unusable image is reported before anything long begins.
"""

import re
import urllib.request
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from cogvx_exp.core.errors import UserError
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.data.resize import ResizeSpec, fit_frame
from cogvx_exp.media.video import open_part
from cogvx_exp.media.window import parse_name

FRAME = re.compile(r"(?:first frame|frame (\d+)) of (.+)")
"""How an image that is a frame of a video is named."""
TIMEOUT = 60.0
"""Timeout of a server, in seconds."""
DEEPEST = 65535
"""Maximum value of a 16-bit image."""


@dataclass(frozen=True)
class Listed:
    """Images given by a setting."""

    setting: str
    sources: list[str]
    """Paths, URLs or frames of videos."""

    def check(self) -> None:
        """Opens all of them.

        Raises:
            UserError: an image cannot be opened.
        """
        for source in self.sources:
            try:
                open_image(source)
            except UserError as error:
                raise UserError(f"{self.setting}: {error}") from None

    def one_for_each(self, prompts: int) -> list[str]:
        """The images, one per prompt.

        Raises:
            UserError: their numbers differ.
        """
        name = self.setting.rpartition(".")[2]
        if len(self.sources) != prompts:
            raise UserError(f"{self.setting} has {len(self.sources)} {name} for {prompts} prompts; give one per prompt")
        return self.sources


def listed_images(images: str | list[str], separator: str, setting: str) -> Listed:
    """Images from a list, a text with separators, or the lines of a .txt file.

    Raises:
        UserError: the .txt file cannot be read.
    """
    if isinstance(images, str) and images.strip().lower().endswith(".txt"):
        path = Path(images.strip()).expanduser()
        try:
            parts = path.read_text(encoding="utf-8-sig").splitlines()
        except FileNotFoundError:
            raise UserError(f"{setting}={images} does not exist") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{setting}={images} cannot be read as UTF-8 text ({error})") from None
    else:
        parts = images.split(separator) if isinstance(images, str) else images
    return Listed(setting, [part.strip() for part in parts if part.strip()])


def frame_of(video: str, index: int) -> str:
    """The name of a frame of a video."""
    return f"first frame of {video}" if index == 0 else f"frame {index} of {video}"


def start_image(source: str, bucket: Bucket, mode: str) -> Image.Image:
    """An image resized to a video.

    Args:
        source: path, URL, or frame of a video.
        bucket: shape of the video.
        mode: data.reshape. Random crops of training become center crops here, so videos can be compared.

    Raises:
        UserError: it cannot be opened.
    """
    # The same code as for training clips, so that a frame of a clip gives the same pixels.
    pixels = np.asarray(open_image(source))
    return Image.fromarray(fit_frame(pixels, bucket, ResizeSpec("center" if mode == "random" else mode)))


def open_image(source: str) -> Image.Image:
    """Opens an image: RGB, 8 bits, upright; transparent pixels become black, like the borders of data.reshape=pad.

    Raises:
        UserError: it cannot be opened.
    """
    if match := FRAME.fullmatch(source):
        index, video = int(match[1] or 0), match[2]
        try:
            return Image.fromarray(next(iter(open_part(*parse_name(video)).frames([index]))))
        except UserError as error:
            raise UserError(f"the image {source} cannot be opened: the video {error}") from None
    try:
        with Image.open(_read(source)) as image:
            # Pillow reads lazily: a truncated file only fails here, within the `try`.
            image.load()
            return to_rgb(image)
    except FileNotFoundError:
        raise UserError(f"the image {source} cannot be opened: it does not exist") from None
    except Exception as error:  # Pillow and the network raise many error classes
        reason = str(error).partition("\n")[0].replace(str(source), "it")[:160] or type(error).__name__
        raise UserError(f"the image {source} cannot be opened: {reason}; try PNG or JPEG") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """An image as 8-bit RGB, rotated according to EXIF; transparent pixels become black."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow's own conversion clips 16-bit values at 255: nearly all white.
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """16-bit grey values, possibly stored in 32 bits, as 8 bits."""
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > DEEPEST:
        raise ValueError(f"its grey values range from {values.min():g} to {values.max():g}; save it with 8 or 16 bits")
    return (values.astype(np.float64) * 255 / DEEPEST).round().astype(np.uint8)


def _read(source: str) -> BytesIO | Path:
    if not source.startswith(("http://", "https://")):
        return Path(source).expanduser()
    request = urllib.request.Request(source, headers={"User-Agent": "cogvx-exp"})  # some servers reject Python's
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        return BytesIO(answer.read())
