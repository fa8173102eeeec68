"""Reads users' text files, which must be UTF-8. Errors name the likely encoding of other files."""

import codecs
import re
import shlex
from pathlib import Path

from cogvx_exp.core.errors import UserError

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
EAST_ASIAN = ("GB18030", "SHIFT_JIS", "EUC-KR", "BIG5")
LONE_HIGH_BYTES = re.compile(rb"(?<![\x80-\xff])[\x80-\xff](?![\x80-\xff])")
"""Bytes like that of é between ASCII letters, which suggest a single-byte encoding."""


class NotUtf8(UserError):  # noqa: N818
    """A text file is not UTF-8: what is wrong, and how to fix it."""

    def __init__(self, what: str, fix: str):
        super().__init__(what, fix)
        self.what, self.fix = what, fix

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}"


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark; line endings are kept.

    Raises:
        NotUtf8: it is in another encoding; the message does not name the file.
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    mark = next((name for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)), None)
    if mark:
        raise _refusal(path, f"is {mark} text, not UTF-8", mark)
    try:
        # Accepts a byte order mark, which Windows editors write; it would otherwise be part of the first value.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # Lines of bytes: the text cannot be decoded to count them.
        line = data[: error.start].count(b"\n") + 1
        guess = _guess(data)
        seems = f"; it seems to be {guess}" if guess else ""
        raise _refusal(path, f"is not UTF-8 text (line {line}){seems}", guess) from None
    # UTF-16 of ASCII text is valid UTF-8 with null characters.
    if "\0" in text:
        endian = "BE" if text[0] == "\0" else "LE"
        raise _refusal(path, "has null characters; it seems to be UTF-16 without a mark", f"UTF-16{endian}")
    return text


def is_text(text: str) -> bool:
    """Whether a text is valid Unicode, without lone surrogates (undecodable file names, broken escapes in JSON)."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refusal(path: Path, what: str, encoding: str | None) -> NotUtf8:
    given = encoding or "ITS_ENCODING"
    target = path.with_name(f"utf8-{path.name}")
    return NotUtf8(what, f"convert it: iconv -f {given} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(str(target))}")


def _guess(data: bytes) -> str | None:
    """The likely encoding, judged by whether non-ASCII letters have one byte or more."""
    high = sum(byte >= 0x80 for byte in data)
    single = len(LONE_HIGH_BYTES.findall(data))
    # In single-byte encodings, accented letters mostly stand alone between ASCII ones; in the others they come in
    # pairs.
    candidates = ("WINDOWS-1252",) if 2 * single >= high else EAST_ASIAN
    return next((name for name in candidates if _decodes(data, name)), None)


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
