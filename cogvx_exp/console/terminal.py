"""Terminal output. Users' text (captions, file names) is printed literally, never parsed as markup."""

import sys
import unicodedata
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

HIDDEN = {"Cc", "Cs"}
"""Unicode categories printed as escapes: control characters, and undecodable bytes of file names."""
LAYOUT = "\n\t"


def visible(text: str, layout: str = LAYOUT) -> str:
    r"""The text with control characters (such as the ones that colour or clear a terminal) as escapes, `\x1b`.

    An undecodable byte, which Python keeps as a lone surrogate, becomes `\xe9`. Characters of `layout` are kept.
    """
    if text.isprintable():
        return text
    shown = (_escaped(letter) if letter not in layout and _is_hidden(letter) else letter for letter in text)
    return "".join(shown)


def one_line(text: str) -> str:
    """The visible text on one line: line breaks and runs of spaces become one space."""
    return visible(" ".join(text.split()))


def never_fail_to_print() -> None:
    """Makes stdout and stderr write escapes for characters their encoding lacks, instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # tests may replace the stream
        if reconfigure:
            reconfigure(errors="backslashreplace")


class PlainConsole(Console):
    """A rich console without markup or emoji codes: styles are given as `style=` or as `Text`."""

    def __init__(self, **settings: Any):
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Rich calls this for every string, including those in tables."""
        settings |= {"markup": False, "emoji": False}
        return super().render_str(visible(text), **settings)

    def print(self, *objects: RenderableType, **settings: Any) -> None:
        """Like rich's, but also escapes the text of `Text` objects."""
        super().print(*(_visible_text(item) if isinstance(item, Text) else item for item in objects), **settings)


def _is_hidden(letter: str) -> bool:
    return unicodedata.category(letter) in HIDDEN


def _escaped(letter: str) -> str:
    number = ord(letter)
    if 0xDC80 <= number <= 0xDCFF:  # a byte (PEP 383)
        return f"\\x{number - 0xDC00:02x}"
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def _visible_text(text: Text) -> Text:
    return text if text.plain.isprintable() else Text(visible(text.plain), style=text.style)
