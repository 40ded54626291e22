"""A proxy on loopback before PostgreSQL, that is slow, refuses, or loses the word that a transaction is committed.

It knows two things of what passes: what a client says to commit, and what the server says where a row was written.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_COMMIT = re.compile(rb"COMMIT;?\x00")  # asyncpg's and psycopg2's, as a query of its own
_WROTE = re.compile(rb"INSERT 0 [1-9]|UPDATE [1-9]|DELETE [1-9]")  # the end of a command that changed rows


class _Session:
    """One client's connection and the proxy's own to the server."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.wrote = self.losing = False

    def close(self) -> None:
        for end in (self.client, self.server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class DatabaseProxy:
    """The faults are attributes, to be set at any time by `reset`."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.port = 0
        self._lock, self._open = threading.Lock(), set[_Session]()
        self._server: socket.socket | None = None
        self.reset()

    def reset(self, *, lose_every: int = 0, seconds: float = 0.0) -> None:
        """No fault but these. lose_every: of so many commits that wrote something, the answer to one is lost, and its
        connection with it. seconds: before each answer of the server, however short."""
        with self._lock:
            self.commits, self.lost = 0, 0
            self.lose_every, self.seconds = lose_every, seconds

    def listen(self) -> None:
        """On a free port, ever the same."""
        self._server = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def refuse(self) -> None:
        """Close the door: connections are refused from now on, those there are break."""
        if self._server is not None:
            with suppress(OSError):
                self._server.shutdown(socket.SHUT_RDWR)  # wakes who accepts
            self._server.close()
            self._server = None
        with self._lock:
            sessions = list(self._open)
        for session in sessions:
            session.close()

    def _accept(self, server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self.upstream)) as server:
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            session = _Session(client, server)
            with self._lock:
                self._open.add(session)
            asked = threading.Thread(target=self._asked, args=(session,), daemon=True)
            asked.start()
            try:
                self._answered(session)
            finally:
                session.close()
                asked.join()
                with self._lock:
                    self._open.discard(session)

    def _asked(self, session: _Session) -> None:
        with suppress(OSError):
            while said := session.client.recv(1 << 16):
                if session.wrote and _COMMIT.search(said):
                    session.wrote = False
                    session.losing = self._is_to_lose()
                session.server.sendall(said)
        session.close()

    def _answered(self, session: _Session) -> None:
        while said := session.server.recv(1 << 16):
            if session.losing:
                with self._lock:
                    self.lost += 1
                return
            session.wrote = session.wrote or _WROTE.search(said) is not None
            if self.seconds:
                time.sleep(self.seconds)
            session.client.sendall(said)

    def _is_to_lose(self) -> bool:
        with self._lock:
            self.commits += 1
            return bool(self.lose_every) and self.commits % self.lose_every == 0


@contextmanager
def before(upstream: int) -> Iterator[DatabaseProxy]:
    """A proxy that listens, before the database at that port; ended with the block."""
    proxy = DatabaseProxy(upstream)
    proxy.listen()
    try:
        yield proxy
    finally:
        proxy.refuse()
