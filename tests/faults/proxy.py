"""A proxy on loopback between our client and a real server, that is slow, fails, refuses, or loses an answer.

What is lost is the answer alone: the request has arrived and was carried out. Nothing here knows what is asked.
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_OF_A_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "expect"}
_LONGEST = 60.0


class Proxy:
    """Calls are counted from 1 since `reset`; the faults are attributes, to be set at any time."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.port = 0
        self._lock, self._open = threading.Lock(), set[socket.socket]()
        self._server: ThreadingHTTPServer | None = None
        self.reset()

    def reset(self, *, lose: int | None = None, seconds: float = 0.0, failing: bool = False) -> None:
        """No fault but these. lose: the number of the call whose answer is lost. seconds: before each answer.
        failing: every call is answered 500 and reaches nobody."""
        with self._lock:
            self.calls: list[str] = []
            self.lost: str | None = None
            self.lose, self.seconds, self.failing = lose, seconds, failing

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def listen(self) -> None:
        """On a free port, ever the same."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def refuse(self) -> None:
        """Close the door: connections are refused from now on, those there are break."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        with self._lock:
            open_now, self._open = self._open, set()
        for connection in open_now:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _number(self, call: str) -> int:
        with self._lock:
            self.calls.append(call)
            return len(self.calls)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                with proxy._lock:
                    proxy._open.add(self.connection)

            def finish(self) -> None:
                with proxy._lock:
                    proxy._open.discard(self.connection)
                with suppress(OSError):
                    super().finish()

            def log_message(self, *_: object) -> None:
                pass

            def any_method(self) -> None:
                body = self._body()
                number = proxy._number(f"{self.command} {self.path.partition('?')[0]}")
                if proxy.failing:
                    return self._answer(500, [("Content-Type", "text/plain")], b"broken")
                status, headers, content = self._upstream(body)
                time.sleep(proxy.seconds)
                if number == proxy.lose:
                    proxy.lost = proxy.calls[number - 1]
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return None
                with suppress(BrokenPipeError, ConnectionResetError):
                    self._answer(status, headers, content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = any_method

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                parts = []
                while size := int(self.rfile.readline().partition(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

            def _upstream(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
                upstream = http.client.HTTPConnection("127.0.0.1", proxy.upstream, timeout=_LONGEST)
                try:
                    headers = {name: value for name, value in self.headers.items()
                               if name.lower() not in _OF_A_CONNECTION}
                    upstream.request(self.command, self.path, body, headers)
                    answer = upstream.getresponse()
                    return answer.status, answer.getheaders(), answer.read()
                finally:
                    upstream.close()

            def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
                self.send_response_only(status)
                for name, value in headers:
                    if name.lower() not in _OF_A_CONNECTION:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

        return Handler


@contextmanager
def before(upstream: int) -> Iterator[Proxy]:
    """A proxy that listens, before the server at that port; ended with the block."""
    proxy = Proxy(upstream)
    proxy.listen()
    try:
        yield proxy
    finally:
        proxy.refuse()
