"""Asks a server with OpenAI's API."""

import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from cogvx_exp.config.schema import Caption
from cogvx_exp.console.terminal import one_line
from cogvx_exp.core.errors import UserError
from cogvx_exp.footage.caption.request import Messages
from cogvx_exp.media.errors import ClipError

PASSING = {408, 409, 425, 429, *range(500, 600)}
"""Status codes of failures that may pass."""
KEY_REFUSED, NOT_FOUND = (401, 403), 404
LONGEST_WAIT = 60.0
"""Seconds between repetitions."""
HOPELESS = 10
"""Clips in a row without an answer, after which the server is taken to be out of order."""
ALWAYS_REFUSED = 3
"""Requests that a server refuses before it has answered any, after which no more are sent."""
SHOWN = 160
"""Characters of a server's message."""


@dataclass
class _Failure(Exception):  # noqa: N818
    """A request without a usable answer."""

    what: str
    passing: bool = True
    wait: float | None = None
    """Seconds to wait as the server wants it."""
    refused_connection: bool = False


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Following a redirection would send the key to another server."""

    def redirect_request(self, *_: Any) -> None:
        return None


class RateLimit:
    """Lets threads pass at most so often.

    Args:
        per_minute: None: no limit.
    """

    def __init__(self, per_minute: float | None):
        self._interval, self._lock, self._next = 60 / per_minute if per_minute else 0.0, threading.Lock(), 0.0

    def wait(self) -> None:
        """Returns when it is this thread's turn."""
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self._interval
        time.sleep(max(turn - time.monotonic(), 0))


class ServerBackend:
    """Chat completions of a server. The key is only read from the environment, and never shown.

    Raises:
        UserError: the server cannot be reached, refuses the key, or does not have the model.
    """

    batch_size = 1

    def __init__(self, settings: Caption):
        self.concurrency, self._settings = settings.concurrency, settings
        self._key = os.environ.get(settings.key_variable, "").strip()
        self._url = settings.url.rstrip("/")
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._limit = RateLimit(settings.requests_per_minute)
        self._lock = threading.Lock()
        self._answered = self._refused = self._failed_in_a_row = 0
        self._check()

    def answer(self, requests: list[Messages]) -> list[str | ClipError]:
        """See `Backend`."""
        return [self._answer(messages) for messages in requests]

    def _answer(self, messages: Messages) -> str | ClipError:
        settings = self._settings
        body = {"model": settings.model, "messages": messages, "max_tokens": settings.max_tokens}
        body |= {"temperature": settings.temperature}
        try:
            text = self._repeated(body)
        except _Failure as failure:
            return self._given_up(failure)
        with self._lock:
            self._answered, self._failed_in_a_row = self._answered + 1, 0
        return text

    def _given_up(self, failure: _Failure) -> ClipError:
        if failure.refused_connection:
            raise self._unreachable(failure.what)
        with self._lock:
            self._failed_in_a_row += 1
            self._refused += not failure.passing
            hopeless = self._failed_in_a_row >= HOPELESS
            never = not self._answered and self._refused >= ALWAYS_REFUSED
        if never:
            model = self._settings.model
            raise UserError(
                f"{self._url} refuses every request ({failure.what}); is caption.model={model} a model with vision?"
            )
        if hopeless:
            raise UserError(f"{self._url} has failed {HOPELESS} times in a row ({failure.what}); see to the server")
        return ClipError(f"the server gave no caption ({failure.what})", "run the command again")

    def _repeated(self, body: dict[str, Any]) -> str:
        """The answer to a request, which is repeated after failures that may pass."""
        wait = self._settings.backoff
        for left in range(self._settings.retries, -1, -1):
            self._limit.wait()
            try:
                return _text_of(self._send("/chat/completions", body))
            except _Failure as failure:
                if not failure.passing or not left:
                    raise
                # A little different for each thread, so that they do not all come back at once.
                time.sleep(min(failure.wait or wait * random.uniform(0.75, 1.25), LONGEST_WAIT))
                wait *= 2
        raise AssertionError("unreachable: the last failure is raised")

    def _send(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON that the server answers.

        Raises:
            _Failure: it does not.
            UserError: it refuses the key, or does not have the model.
        """
        headers = {"Content-Type": "application/json", "User-Agent": "cogvx-exp"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers)
        try:
            with self._opener.open(request, timeout=self._settings.timeout) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            raise self._refusal(error, path) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            refused = isinstance(reason, ConnectionRefusedError) or "not known" in str(reason)
            raise _Failure(self._safe(str(reason) or type(reason).__name__), refused_connection=refused) from None
        except ValueError:
            raise _Failure("its answer is not JSON") from None

    def _refusal(self, error: urllib.error.HTTPError, path: str) -> Exception:
        """What an error status means."""
        message, variable = self._safe(_message(error)), self._settings.key_variable
        if error.code in KEY_REFUSED:
            fix = f"the key in {variable} is refused" if self._key else f"set {variable} in the environment to your key"
            return UserError(f"{self._url} answers {error.code}: {message or error.reason}; {fix}")
        if error.code == NOT_FOUND and path != "/models":
            fix = f"check caption.url and caption.model={self._settings.model}"
            return UserError(f"{self._url} answers 404: {message or error.reason}; {fix}")
        wait = error.headers.get("Retry-After", "")
        seconds = float(wait) if wait.replace(".", "", 1).isdigit() else None
        return _Failure(f"{error.code}: {message or error.reason}", error.code in PASSING, seconds)

    def _check(self) -> None:
        """Finds out what would make every request fail, before any clip is decoded."""
        try:
            listed = self._send("/models")
        except _Failure as failure:
            if failure.refused_connection:
                raise self._unreachable(failure.what) from None
            return  # not every server lists its models
        names = [str(model.get("id")) for model in _items(listed) if isinstance(model, dict)]
        if names and self._settings.model not in names:
            some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            raise UserError(f"{self._url} has no caption.model={self._settings.model}; it has {some}")

    def _unreachable(self, why: str) -> UserError:
        start = f"start it (vllm serve {self._settings.model}), or set caption.url to its address"
        return UserError(f"caption.url={self._settings.url} cannot be reached ({why}); {start}")

    def _safe(self, text: str) -> str:
        """A server's message without the key, which some repeat."""
        return one_line(text.replace(self._key, "***") if self._key else text)[:SHOWN]


def _text_of(answer: Any) -> str:
    try:
        text = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        raise _Failure("its answer has no choices[0].message.content") from None
    return text if isinstance(text, str) else ""


def _items(listed: Any) -> list[Any]:
    found = listed.get("data") if isinstance(listed, dict) else None
    return found if isinstance(found, list) else []


def _message(error: urllib.error.HTTPError) -> str:
    """The message in the body of an error."""
    try:
        body = json.loads(error.read(1 << 16))
        found = body.get("error", body.get("message", ""))
        return str(found.get("message", "") if isinstance(found, dict) else found)
    except (OSError, ValueError, AttributeError, http.client.HTTPException):
        return ""
