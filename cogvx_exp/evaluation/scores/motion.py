"""Scores from the optical flow, which needs OpenCV."""

import numpy as np

from cogvx_exp.evaluation.scores.reduced import luma, small


def motion(frames: np.ndarray, flow: np.ndarray, fps: float) -> float:
    """Mean length of the optical flow, percent of the height per second, as `filter.motion`."""
    return float(np.linalg.norm(flow, axis=-1).mean() / flow.shape[1] * 100 * fps)


def flicker(frames: np.ndarray, flow: np.ndarray) -> float:
    """Difference of brightness between each frame and the next one moved back along the flow, percent of the range.

    Motion alone gives little, because it is undone.
    """
    import cv2

    grey = luma(small(frames))
    rows, columns = np.indices(grey.shape[1:], dtype=np.float32)
    differences = [
        np.abs(
            before
            - cv2.remap(
                after, columns + moved[..., 0], rows + moved[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
        ).mean()
        for before, after, moved in zip(grey, grey[1:], flow, strict=False)
    ]
    return float(np.mean(differences) / 255 * 100)
