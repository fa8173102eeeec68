"""Terminal output. Users' text (captions, file names) is printed literally, never parsed as markup."""

import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

HIDDEN = {"Cc", "Cs"}
"""Unicode categories printed as escapes: control characters, and undecodable bytes of file names."""
LAYOUT = "\n\t"
QUIET = "COGVX_QUIET"
"""Variable that tells processes which a command starts that it was given --quiet."""
HUB_QUIET = "HF_HUB_DISABLE_PROGRESS_BARS"


def visible(text: str, layout: str = LAYOUT) -> str:
    r"""The text with control characters (such as the ones that colour or clear a terminal) as escapes, `\x1b`.

    An undecodable byte, which Python keeps as a lone surrogate, becomes `\xe9`. Characters of `layout` are kept.
    """
    # Nearly all texts; the rest of the function is slow in Python.
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
            # With an encoding such as Latin-1, a caption would otherwise end a run of hours.
            reconfigure(errors="backslashreplace")


class PlainConsole(Console):
    """A rich console without markup or emoji codes: styles are given as `style=` or as `Text`.

    `print` is for progress, which --quiet does not show; `warn` and `result` for what it does show. A process that is
    not the main one has `quiet` set, and shows nothing.
    """

    def __init__(self, **settings: Any):
        super().__init__(markup=False, emoji=False, highlight=False, **settings)
        self.only_results = bool(os.environ.get(QUIET))

    @property
    def shows_bars(self) -> bool:
        """Whether progress bars can be drawn."""
        return self.is_terminal and not self.only_results

    @contextmanager
    def showing_only_results(self, wanted: bool) -> Iterator[None]:
        """Inside, if `wanted`, this process and those that it starts show no progress."""
        if not wanted or self.only_results:
            yield
            return
        added = {QUIET, HUB_QUIET} - os.environ.keys()
        self.only_results = True
        # In the environment, because workers are started without this command's flags.
        os.environ.update(dict.fromkeys(added, "1"))
        try:
            yield
        finally:
            self.only_results = False
            for name in added:
                del os.environ[name]

    def render_str(self, text: str, **settings: Any) -> Text:
        """Rich calls this for every string, including those in tables."""
        settings |= {"markup": False, "emoji": False}
        return super().render_str(visible(text), **settings)

    def print(self, *objects: RenderableType, **settings: Any) -> None:
        """Like rich's, but also escapes the text of `Text` objects."""
        if not self.only_results:
            self._show(*objects, **settings)

    def warn(self, what: RenderableType, **settings: Any) -> None:
        """Shows something that a user may have to act on."""
        self._show(what, **{"soft_wrap": isinstance(what, str), **settings})

    def result(self, what: RenderableType, **settings: Any) -> None:
        """Shows what a command was started for, or where it is."""
        self._show(what, **{"soft_wrap": isinstance(what, str), **settings})

    def _show(self, *objects: RenderableType, **settings: Any) -> None:
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
