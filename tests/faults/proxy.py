"""A proxy on loopback between our client and a real server, that is slow, fails, refuses, or loses an answer.

What is lost is the answer alone: the request has arrived and was carried out. Nothing here knows what is asked. A
websocket is let through as it is, and breaks while all else is answered 500.
"""

from __future__ import annotations

import hashlib
import http.client
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Host is not among them: S3's clients sign the one they asked
_OF_A_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}
_WRITES = {"POST", "PUT", "PATCH", "DELETE"}
_LONGEST = 60.0


class Proxy:
    """Calls are counted from 1 since `reset`; the faults are attributes, to be set at any time."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.port = 0
        self._lock, self._open = threading.Lock(), set[socket.socket]()
        self._server: ThreadingHTTPServer | None = None
        self.reset()

    def reset(self, *, lose: int | None = None, lose_each: bool = False, seconds: float = 0.0,
              failing: bool = False) -> None:
        """No fault but these. lose: the number of the call whose answer is lost. lose_each: of every write, the answer
        to its first try. seconds: before each answer. failing: every call is answered 500 and reaches nobody."""
        with self._lock:
            self.calls: list[str] = []
            self.lost: list[str] = []
            self._tried: set[bytes] = set()
            self.lose, self.lose_each, self.seconds, self.failing = lose, lose_each, seconds, failing

    def mend(self) -> None:
        """No fault from now on; what was counted stays."""
        with self._lock:
            self.lose, self.lose_each, self.seconds, self.failing = None, False, 0.0, False

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

    def _taken(self, call: str, whole: bytes) -> bool:
        """Whether the answer to this call is to be lost; `whole`: all that a repeat of it has too."""
        first = hashlib.sha256(whole).digest()
        with self._lock:
            self.calls.append(call)
            again = first in self._tried
            self._tried.add(first)
            return len(self.calls) == self.lose or (
                self.lose_each and not again and call.partition(" ")[0] in _WRITES)

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
                call = f"{self.command} {self.path.partition('?')[0]}"
                taken = proxy._taken(call, f"{self.command} {self.path}\n".encode() + body)
                if proxy.failing:
                    return self._answer(500, [("Content-Type", "text/plain")], b"broken")
                if self.headers.get("Upgrade"):
                    return self._tunnel()
                try:
                    status, headers, content = self._upstream(body)
                except (OSError, http.client.HTTPException):  # the server itself is away
                    return self._hang_up()
                time.sleep(proxy.seconds)
                if taken:
                    with proxy._lock:
                        proxy.lost.append(call)
                    return self._hang_up()
                with suppress(BrokenPipeError, ConnectionResetError):
                    self._answer(status, headers, content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = any_method

            def _hang_up(self) -> None:
                self.close_connection = True
                with suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)

            def _tunnel(self) -> None:
                """What both sides say from now on, until one ends it or the server fails."""
                head = "".join(f"{line}\r\n" for line in (
                    self.requestline, *(f"{name}: {value}" for name, value in self.headers.items()), ""))
                with suppress(OSError), socket.create_connection(("127.0.0.1", proxy.upstream)) as upstream:
                    upstream.sendall(head.encode("latin-1"))
                    other = {self.connection: upstream, upstream: self.connection}
                    while not proxy.failing:
                        for side in select.select(list(other), [], [], 0.2)[0]:
                            if not (said := side.recv(1 << 16)):
                                return self._hang_up()
                            other[side].sendall(said)
                return self._hang_up()

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
                length = len(content)
                if self.command == "HEAD":  # of what GET would bring
                    length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
                self.send_header("Content-Length", str(length))
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
