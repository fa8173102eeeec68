"""From decoded frames to the pixels that the VAE encodes."""

import numpy as np
import torch
from torch.nn.functional import interpolate

from cogvx_exp.data.buckets import Bucket


def to_pixels(frames: np.ndarray, bucket: Bucket, reshape: str) -> torch.Tensor:
    """Brings frames (uint8, (F, H, W, 3)) to a bucket's size: float32 in [-1, 1], (3, F, height, width).

    `reshape` is center (scale to cover, crop the middle) or resize (distort).
    """
    pixels_FCHW = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    height, width = pixels_FCHW.shape[2:]
    scaled = (bucket.height, bucket.width)
    if reshape == "center":
        scale = max(bucket.height / height, bucket.width / width)
        scaled = (max(round(height * scale), bucket.height), max(round(width * scale), bucket.width))
    if scaled != (height, width):
        pixels_FCHW = interpolate(pixels_FCHW, scaled, mode="bilinear", antialias=True)
    top, left = (scaled[0] - bucket.height) // 2, (scaled[1] - bucket.width) // 2
    pixels_FCHW = pixels_FCHW[:, :, top : top + bucket.height, left : left + bucket.width]
    return (pixels_FCHW / 127.5 - 1).clamp(-1, 1).permute(1, 0, 2, 3).contiguous()
