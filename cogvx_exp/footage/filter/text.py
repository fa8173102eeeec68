"""Measures how much of the picture subtitles, watermarks and title cards cover. Runs in a worker process."""

from functools import cache
from typing import Any

import numpy as np

from cogvx_exp.core.errors import UserError
from cogvx_exp.footage.filter.scores import HEIGHT, SAMPLES
from cogvx_exp.media.spacing import spread
from cogvx_exp.media.window import Window, WindowReader

VERSION = 1
"""Increase it when the score of the same clip changes."""
SIDE = 320
"""Smaller pictures are enlarged to this many pixels. In pictures that are enlarged more, blurred shapes become text."""
CONFIDENCE = 0.7
"""Of a box. Watermarks are mostly above 0.7; most blurred shapes that are taken for text are below."""


def text_share(path: str, window: Window) -> dict[str, Any]:
    """The largest share of the picture's area that text covers in one of the sampled frames, as `text`.

    Raises:
        ClipError: the clip cannot be decoded.
        UserError: the detector cannot be imported.
    """
    import cv2

    cv2.setNumThreads(1)  # clips are measured in parallel processes already
    reader = WindowReader(path, window)
    frames = reader.frames(spread(len(reader.starts), SAMPLES), HEIGHT)
    return {"text": round(max(_covered(frame) for frame in frames), 4)}


def _covered(frame: np.ndarray) -> float:
    import cv2

    bgr = np.ascontiguousarray(frame[..., ::-1])
    boxes, _ = _detector()(bgr, use_det=True, use_cls=False, use_rec=False)
    covered = np.zeros(frame.shape[:2], np.uint8)  # boxes overlap, so their areas cannot be added
    for box in boxes or []:
        cv2.fillPoly(covered, [np.array(box).round().astype(np.int32)], (1,))
    return float(covered.mean())


@cache
def _detector() -> Any:
    """PaddleOCR's text detector; its weights are in the package."""
    try:
        from rapidocr_onnxruntime import RapidOCR
    except ImportError as error:  # installed, but onnxruntime or a library of the system is not usable
        reason = str(error).partition("\n")[0]
        raise UserError(f"filter.text cannot import rapidocr_onnxruntime ({reason}); set filter.text=null") from error
    threads = {"intra_op_num_threads": 1, "inter_op_num_threads": 1}
    return RapidOCR(det_limit_side_len=SIDE, det_box_thresh=CONFIDENCE, **threads)
