"""The terminal. Text of a user (captions, names of files) is shown as it is, never read as markup."""

import sys
import unicodedata
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

HIDDEN = {"Cc", "Cs"}
"""Unicode categories of what is shown as an escape: control characters, and bytes of file names that are not UTF-8."""
LAYOUT = "\n\t"


def visible(text: str, layout: str = LAYOUT) -> str:
    r"""The text with control characters (such as those that colour or clear a terminal) as escapes, `\x1b`.

    A byte that is no UTF-8, which Python keeps as a lone surrogate, becomes `\xe9`. Characters of `layout` stay.
    """
    if text.isprintable():
        return text
    shown = (_escaped(letter) if letter not in layout and _is_hidden(letter) else letter for letter in text)
    return "".join(shown)


def one_line(text: str) -> str:
    """The visible text in one line: line breaks and runs of blanks become a blank."""
    return visible(" ".join(text.split()))


def never_fail_to_print() -> None:
    """Lets standard output and errors write an escape for what their encoding does not have, instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a test may have put something else there
        if reconfigure:
            reconfigure(errors="backslashreplace")


class PlainConsole(Console):
    """A rich console in which no text is markup or an emoji code: styles are given as `style=` or as `Text`."""

    def __init__(self, **settings: Any):
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Rich calls this for every string, those in tables included."""
        settings |= {"markup": False, "emoji": False}
        return super().render_str(visible(text), **settings)

    def print(self, *objects: RenderableType, **settings: Any) -> None:
        """As rich's, but also the text of `Text` objects is made visible."""
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
