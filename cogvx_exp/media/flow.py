"""Optical flow, by OpenCV."""

import numpy as np


def optical_flow(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Where the pixels of one grey frame move to in the next (Farneback's method, arguments of OpenCV's example).

    Args:
        before: uint8, (height, width).
        after: the same.

    Returns:
        float32, (height, width, 2), in pixels.
    """
    import cv2

    return np.asarray(cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 3, 15, 3, 5, 1.2, 0))  # type: ignore[call-overload]
