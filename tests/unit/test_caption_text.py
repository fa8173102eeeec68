"""From a model's answers to captions: cleaned, short enough, and from the right frames."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogvx_exp.footage.caption.request import encoded_frames, shorter_request
from cogvx_exp.footage.caption.text import clean, shortened
from cogvx_exp.footage.caption.writer import CaptionWriter
from cogvx_exp.media.errors import ClipError
from cogvx_exp.media.window import Window
from tests.numbered import ENCODERS, make, number


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The video shows a man walking.", "A man walking."),
        ("Sure! Here is the caption:\n\n**A dog** runs\nover grass.", "A dog runs over grass."),
        ('"A cat sleeps."', "A cat sleeps."),
        ("In this video, we can see a bird. It flies.", "A bird. It flies."),
        ("This short video clip begins with waves. They break, and the camera", "Waves."),
        (
            "Description: The footage captures a red car at 3.5 m/s. It turns left.",
            "A red car at 3.5 m/s. It turns left.",
        ),
        ("The videographer shows a map.", "The videographer shows a map."),
        ("An image of a cat hangs on the wall", "An image of a cat hangs on the wall"),
    ],
)
def test_answers_become_captions(answer: str, expected: str) -> None:
    assert clean(answer) == expected


@pytest.mark.parametrize(
    "answer", ["I'm sorry, but I can't help with that.", "I cannot see any video.", "  ", "...", "As an AI, I"]
)
def test_refusals_are_no_captions(answer: str) -> None:
    with pytest.raises(ClipError, match=r"did not describe it|answer is empty"):
        clean(answer)


def test_long_captions_are_asked_for_again_and_then_shortened() -> None:
    asked: list[list[str]] = []
    lengths = iter([30, 22, 9, 30, 30, 30, 8])

    class Backend:
        batch_size, concurrency = 2, 1

        def answer(self, requests):
            asked.append([messages[-1]["content"][-1]["text"] for messages in requests])
            return ["One two three four. " + "word " * (next(lengths) - 5) + "end." for _ in requests]

    writer = CaptionWriter(Backend(), lambda texts: [len(text.split()) for text in texts], 10, "TRIGGER")
    request = [{"role": "user", "content": [{"type": "text", "text": "describe"}]}]
    first, second = writer.write([request, request])
    assert len(asked) == 3
    assert asked[0] == ["describe"] * 2
    assert asked[1][0].startswith("This is too long. Write it again in at most 8 words")
    assert first == "TRIGGER One two three four. word word word word end.", "9 words and the trigger"
    assert second == "TRIGGER One two three four.", "whole sentences of what stays too long"
    with pytest.raises(ClipError, match="stays too long"):
        shortened("one two three", lambda text: False)
    again = shorter_request(request, "answer", 20, 10)
    assert [message["role"] for message in again] == ["user", "assistant", "user"]


def test_frames_are_spread_over_the_time_of_the_clip(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", *ENCODERS["h264"])
    window = Window(0.4, 1.2)
    shown = []
    for address in encoded_frames(str(path), window, 4, 1000):
        content = base64.b64decode(address.removeprefix("data:image/jpeg;base64,"))
        shown.append(number(np.asarray(Image.open(io.BytesIO(content)))))
    assert shown == [12, 17, 22, 27]
    assert len(encoded_frames(str(path), Window(0, 0.08), 8, 32)) == 2, "a frame is shown once"
