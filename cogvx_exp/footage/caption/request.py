"""What a vision-language model is asked, as messages of OpenAI's API, which all backends share."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from cogvx_exp.config.schema import Caption
from cogvx_exp.media.window import Window, WindowReader

Messages = list[dict[str, Any]]

DATA = "data:image/jpeg;base64,"
EXAMPLES = "Examples of the style, of other clips:"


def encoded_frames(path: str, window: Window, count: int, height: int) -> list[str]:
    """Frames of a clip, spread evenly over its time, as `data:` addresses of JPEG files. Runs in a worker process.

    Raises:
        ClipError: it cannot be decoded.
    """
    reader = WindowReader(path, window)
    moments = (np.arange(count) + 0.5) / count * reader.duration
    places = np.unique(np.searchsorted(reader.starts, moments, side="right") - 1).clip(0)
    return [_address(frame) for frame in reader.frames(places.tolist(), height)]


def first_request(frames: list[str], settings: Caption) -> Messages:
    """Asks for a caption of a clip."""
    images = [{"type": "image_url", "image_url": {"url": frame}} for frame in frames]
    text = settings.instruction
    if settings.examples:
        text = "\n\n".join([text, EXAMPLES, *settings.examples])
    return [{"role": "user", "content": [*images, {"type": "text", "text": text}]}]


def shorter_request(messages: Messages, answer: str, tokens: int, most: int) -> Messages:
    """Asks again, for a shorter caption.

    Args:
        messages: the conversation so far.
        answer: the caption that is too long.
        tokens: its tokens.
        most: tokens that it may have.
    """
    words = max(int(len(answer.split()) * most / tokens * 0.85), 5)
    text = f"This is too long. Write it again in at most {words} words, as one paragraph, with what matters most."
    said = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    return [*messages, said, {"role": "user", "content": [{"type": "text", "text": text}]}]


def with_pictures(messages: Messages) -> Messages:
    """The messages with images as Pillow's, as transformers takes them."""
    return [message | {"content": [_with_picture(part) for part in message["content"]]} for message in messages]


def _with_picture(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] != "image_url":
        return part
    content = base64.b64decode(part["image_url"]["url"].removeprefix(DATA))
    return {"type": "image", "image": Image.open(io.BytesIO(content)).convert("RGB")}


def _address(frame: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=90)
    return DATA + base64.b64encode(buffer.getvalue()).decode()
