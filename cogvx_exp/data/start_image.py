"""The image that an image-to-video starts from, read and brought to the video's size as training brings a first frame.

Does not need torch, so that an image that cannot be used is reported before anything long begins.
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
from cogvx_exp.media.video import open_video

FRAME = re.compile(r"(?:first frame|frame (\d+)) of (.+)")
"""How an image that is a frame of a video is named."""
TIMEOUT = 60.0
"""Seconds that a server may take to answer."""
DEEPEST = 65535
"""Largest value of a 16-bit image."""


@dataclass(frozen=True)
class Listed:
    """Images as a setting names them."""

    setting: str
    sources: list[str]
    """Paths, URLs or frames of videos."""

    def check(self) -> None:
        """Opens all of them.

        Raises:
            UserError: one cannot be opened.
        """
        for source in self.sources:
            try:
                open_image(source)
            except UserError as error:
                raise UserError(f"{self.setting}: {error}") from None

    def one_for_each(self, prompts: int) -> list[str]:
        """The images, if there are as many as prompts.

        Raises:
            UserError: there are more or fewer.
        """
        if len(self.sources) != prompts:
            raise UserError(f"{self.setting} has {len(self.sources)} images for {prompts} prompts; give one for each")
        return self.sources


def listed_images(images: str | list[str], separator: str, setting: str) -> Listed:
    """The images of a list, of a text with separators, or of the lines of a .txt file.

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
    """An image in the size of a video.

    Args:
        source: path, URL, or frame of a video.
        bucket: shape of the video.
        mode: data.reshape. A random crop of training is one in the middle here, so that videos can be compared.

    Raises:
        UserError: it cannot be opened.
    """
    pixels = np.asarray(open_image(source))
    return Image.fromarray(fit_frame(pixels, bucket, ResizeSpec("center" if mode == "random" else mode)))


def open_image(source: str) -> Image.Image:
    """Opens an image: RGB, 8 bits, upright; transparent parts over black, as the borders of data.reshape=pad.

    Raises:
        UserError: it cannot be opened.
    """
    if found := FRAME.fullmatch(source):
        index, video = int(found[1] or 0), found[2]
        try:
            return Image.fromarray(next(iter(open_video(video).frames([index]))))
        except UserError as error:
            raise UserError(f"the image {source} cannot be opened: the video {error}") from None
    try:
        with Image.open(_read(source)) as image:
            image.load()
            return to_rgb(image)
    except FileNotFoundError:
        raise UserError(f"the image {source} cannot be opened: it does not exist") from None
    except Exception as error:  # Pillow's formats and the network raise errors of many classes
        reason = str(error).partition("\n")[0].replace(str(source), "it")[:160] or type(error).__name__
        raise UserError(f"the image {source} cannot be opened: {reason}; PNG and JPEG are safe") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """An image as three channels of 8 bits, turned as its EXIF says, over black where it is transparent."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """Grey values of 16 bits, or of 32 that are used as 16, as 8 bits."""
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > DEEPEST:
        raise ValueError(f"its grey values go from {values.min():g} to {values.max():g}; save it with 8 or 16 bits")
    return (values.astype(np.float64) * 255 / DEEPEST).round().astype(np.uint8)


def _read(source: str) -> BytesIO | Path:
    if not source.startswith(("http://", "https://")):
        return Path(source).expanduser()
    request = urllib.request.Request(source, headers={"User-Agent": "cogvx-exp"})  # some servers refuse Python's
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        return BytesIO(answer.read())
