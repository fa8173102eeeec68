"""A server with OpenAI's API that does what a test wants, and notes what it is asked."""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CAPTION = "A textured wall slides past the camera from right to left in even light."
HANG = 1.5
"""Seconds."""


@dataclass
class Server:
    """What the server does and has seen."""

    script: list[str] = field(default_factory=list)
    """What it does with the next requests: ok, 429, 500, 400, 401, 404, 302, hang, cut, junk, empty."""
    models: list[str] | None = field(default_factory=lambda: ["tiny"])
    caption: Callable[[dict[str, Any]], str] = lambda body: CAPTION
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    url: str = ""

    def texts(self) -> list[str]:
        """The last text of each request."""
        return [body["messages"][-1]["content"][-1]["text"] for body in self.bodies]


@contextmanager
def serving(*script: str, **settings: Any) -> Iterator[Server]:
    """Runs the server."""
    state, lock = Server(list(script), **settings), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            if state.models is None:
                self.reply(404, {})
            else:
                self.reply(200, {"data": [{"id": name} for name in state.models]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                state.bodies.append(body)
                state.headers.append(dict(self.headers))
                state.times.append(time.monotonic())
                state.at_once += 1
                state.most_at_once = max(state.most_at_once, state.at_once)
                action = state.script.pop(0) if state.script else "ok"
            try:
                self.act(action, body)
            finally:
                with lock:
                    state.at_once -= 1

        def act(self, action: str, body: dict[str, Any]) -> None:
            if action == "ok":
                time.sleep(0.02)
                self.reply(200, {"choices": [{"message": {"content": state.caption(body)}}]})
            elif action == "hang":
                time.sleep(HANG)
            elif action == "cut":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{")
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            elif action == "junk":
                self.reply(200, b"<html>busy</html>")
            elif action == "empty":
                self.reply(200, {"choices": []})
            elif action == "302":
                self.reply(302, {}, {"Location": state.url + "/elsewhere"})
            else:
                message = f"error {action} with key {self.headers.get('Authorization', '')[7:]}"
                wait = {"Retry-After": "0.2"} if action == "429" else {}
                self.reply(int(action), {"error": {"message": message}}, wait)

        def reply(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
            content = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            for name, text in ({"Content-Length": str(len(content))} | (headers or {})).items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
