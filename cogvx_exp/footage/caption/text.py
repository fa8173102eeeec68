"""From a model's answer to a caption."""

import re
from collections.abc import Callable

from cogvx_exp.console.terminal import one_line
from cogvx_exp.media.errors import ClipError

REFUSAL = re.compile(
    r"(i['’]?m (really )?(sorry|unable|not able)|i am (sorry|unable|not able)|sorry\b|unfortunately\b|as an ai\b|"
    r"i (can ?not|can['’]t|could ?n['o’]t|won['’]t|do ?n['o’]t (have|see))|unable to|"
    r"there (is|are) no (image|frame|video))",
    re.IGNORECASE,
)
"""The beginning of an answer that is not a description."""
MEDIUM = r"(?:short )?(?:video(?: clip)?|clip|footage|images?|frames?|sequence(?: of (?:images|frames))?)"
BOILERPLATE = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?:sure|certainly|of course|absolutely)\b[^.:\n]{0,60}[.:!,]\s*",
        r"here(?:['’]s| is| are)\b[^.:\n]{0,80}:\s*",
        r"(?:the )?(?:caption|description|paragraph|answer)\s*:\s*",
        rf"(?:in|throughout) (?:the|this|these) {MEDIUM},?\s+(?:we (?:can )?see\s+)?",
        rf"(?:the|this|these) {MEDIUM} (?:shows?|depicts?|features?|captures?|presents?|displays?|portrays?|"
        r"(?:opens|begins|starts) with)\s+(?:that\s+)?",
        r"we (?:can )?see\s+",
    )
]
"""What a description begins with that says nothing about the clip."""
QUOTES = "\"'“”‘’`"
SENTENCE = re.compile(r"[.!?](?=[\"'”’)]*(?:\s|$))[\"'”’)]*")
SHOWN = 80
"""Characters of an answer in a message."""


def clean(answer: str) -> str:
    """The description in an answer: one paragraph without markup, preamble and an incomplete last sentence.

    Raises:
        ClipError: it is empty or a refusal.
    """
    text = " ".join(re.sub(r"```\w*|\*\*|__|^#+ |^[-*] ", "", answer, flags=re.MULTILINE).split())
    text = _without_quotes(text)
    if REFUSAL.match(text):
        raise ClipError(f'the model did not describe it: "{one_line(text)[:SHOWN]}"', "write its caption yourself")
    before = None
    while text != before:
        before = text
        for pattern in BOILERPLATE:
            text = _without_quotes(pattern.sub("", text, count=1) if pattern.match(text) else text)
    text = _without_incomplete_sentence(text[:1].upper() + text[1:])
    if not any(character.isalpha() for character in text):
        raise ClipError(f'the model\'s answer is empty ("{one_line(answer)[:SHOWN]}")', "write its caption yourself")
    return text


def shortened(text: str, fits: Callable[[str], bool]) -> str:
    """The most whole sentences of a caption that fit.

    Raises:
        ClipError: the first one does not.
    """
    for match in reversed(list(SENTENCE.finditer(text))):
        if fits(text[: match.end()]):
            return text[: match.end()]
    raise ClipError(f'its caption stays too long ("{one_line(text)[:SHOWN]}")', "write it yourself")


def _without_quotes(text: str) -> str:
    text = text.strip()
    return text[1:-1].strip() if len(text) > 1 and text[0] in QUOTES and text[-1] in QUOTES else text


def _without_incomplete_sentence(text: str) -> str:
    """An answer that was cut off ends with its last whole sentence, if it has one."""
    ends = [match.end() for match in SENTENCE.finditer(text)]
    return text[: ends[-1]] if ends else text
