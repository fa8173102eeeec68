"""Datasets encoded by CogVideoX Factory's prepare_dataset.py (`data=latents`).

    videos.txt prompts.txt
    video_latents/NAME.pt     VAE moments, (2 channels, frames, height, width); latents/ in older versions
    image_latents/NAME.pt     moments of the first frame, (2 channels, 1, height, width)
    control_latents/NAME.pt   moments of the control video, shaped like the video's; not written by the Factory
    prompt_embeds/NAME.pt     T5 embeddings, (tokens, width); embeddings/ in older versions

They are read with `weights_only`, so a file that contains anything but tensors is refused, not executed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvx_exp.data.issues import ClipError
from cogvx_exp.media.video import VideoInfo

VIDEO_FOLDERS = ("video_latents", "latents")
PROMPT_FOLDERS = ("prompt_embeds", "embeddings")
SPATIAL, TEMPORAL = 8, 4
"""Pixels and frames per latent, for the checkpoints that the Factory supports."""

PREPARE_AGAIN = "run prepare_dataset.py again, or remove the row"


@dataclass(frozen=True, slots=True)
class LatentFiles:
    """The encoded files of one clip."""

    moments: str
    embeds: str
    image: str | None
    """Moments of the first frame, if they were saved."""
    control: str | None = None
    """Moments of the control video, if there are any."""

    def required_image(self) -> str:
        """Path of the image's moments.

        Raises:
            ClipError: they were not saved.
        """
        if self.image is None:
            raise ClipError("has no image_latents, which task=i2v needs", PREPARE_AGAIN)
        return self.image

    def required_control(self) -> str:
        """Path of the control video's moments.

        Raises:
            ClipError: there are none.
        """
        if self.control is None:
            fix = "save the moments of its control video there, or remove the row"
            raise ClipError("has no control_latents, which task=control needs", fix)
        return self.control


def latent_files(video: str) -> LatentFiles:
    """The encoded files of the video ROOT/videos/NAME.mp4, which itself need not exist.

    Raises:
        ClipError: a file is missing.
    """
    root, name = Path(video).parent.parent, Path(video).name.split(".")[0]
    image, control = (root / folder / f"{name}.pt" for folder in ("image_latents", "control_latents"))
    return LatentFiles(
        _find(root, VIDEO_FOLDERS, name),
        _find(root, PROMPT_FOLDERS, name),
        str(image) if image.is_file() else None,
        str(control) if control.is_file() else None,
    )


def latent_info(files: LatentFiles) -> VideoInfo:
    """The shape of the encoded video.

    Raises:
        ClipError: the moments cannot be read.
    """
    _, frames, height, width = load_tensor(files.moments, 4).shape
    count = frames * TEMPORAL if frames % 2 == 0 else (frames - 1) * TEMPORAL + 1
    return VideoInfo(count, height * SPATIAL, width * SPATIAL, 8.0, count / 8.0)


def check_control(files: LatentFiles) -> None:
    """Compares a control video's moments with those of the clip.

    Raises:
        ClipError: there are none, or they have another shape.
    """
    shape, wanted = (tuple(load_tensor(path, 4).shape) for path in (files.required_control(), files.moments))
    if shape != wanted:
        raise ClipError(f"has control_latents of shape {shape}, but latents of {wanted}", "encode both in one shape")


def load_tensor(path: str, dimensions: int) -> Any:
    """Reads a tensor without executing pickled code.

    Raises:
        ClipError: the file contains anything else.
    """
    import torch

    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many error classes for damaged files
        raise ClipError(f"cannot be read safely ({type(error).__name__})", PREPARE_AGAIN) from None
    if not isinstance(tensor, torch.Tensor) or tensor.ndim != dimensions:
        raise ClipError(f"is not a tensor with {dimensions} dimensions", PREPARE_AGAIN)
    return tensor.contiguous()


def _find(root: Path, folders: tuple[str, ...], name: str) -> str:
    for folder in folders:
        path = root / folder / f"{name}.pt"
        if path.is_file():
            return str(path)
    raise ClipError(f"has no {folders[0]}/{name}.pt", PREPARE_AGAIN)
