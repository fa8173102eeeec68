"""Asks for captions until they are short enough."""

import threading
from collections.abc import Callable

from cogvx_exp.footage.caption.backends import Backend
from cogvx_exp.footage.caption.request import Messages, shorter_request
from cogvx_exp.footage.caption.text import clean, shortened
from cogvx_exp.media.errors import ClipError

ASKED_AGAIN = 2
"""How often a caption that is too long is asked for again; then its last sentences are left out."""


class CaptionWriter:
    """Captions that fit into the model's text.

    Args:
        backend: answers requests.
        count_tokens: tokens of texts, by the tokenizer of the model that will be trained.
        most: tokens that a caption may have.
        trigger: put in front of each caption.
    """

    def __init__(
        self, backend: Backend, count_tokens: Callable[[list[str]], list[int]], most: int, trigger: str | None
    ):
        self._backend, self._count, self._most = backend, count_tokens, most
        self._prefix = f"{trigger} " if trigger else ""
        self._lock = threading.Lock()  # tokenizers cannot be used by several threads at once

    def write(self, requests: list[Messages]) -> list[str | ClipError]:
        """The caption for each request, or why there is none."""
        results: dict[int, str | ClipError] = {}
        open_requests = dict(enumerate(requests))
        for attempt in range(ASKED_AGAIN + 1):
            answers = self._backend.answer(list(open_requests.values()))
            for index, answer in zip(list(open_requests), answers, strict=True):
                text = _cleaned(answer)
                if isinstance(text, str) and (tokens := self._tokens(text)) > self._most:
                    if attempt < ASKED_AGAIN:
                        open_requests[index] = shorter_request(open_requests[index], text, tokens, self._most)
                        continue
                    text = self._shortened(text)
                results[index] = self._prefix + text if isinstance(text, str) else text
                del open_requests[index]
            if not open_requests:
                break
        return [results[index] for index in range(len(requests))]

    def _tokens(self, text: str) -> int:
        with self._lock:
            return self._count([self._prefix + text])[0]

    def _shortened(self, text: str) -> str | ClipError:
        try:
            return shortened(text, lambda part: self._tokens(part) <= self._most)
        except ClipError as error:
            return error


def _cleaned(answer: str | ClipError) -> str | ClipError:
    try:
        return clean(answer) if isinstance(answer, str) else answer
    except ClipError as error:
        return error
