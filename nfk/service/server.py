"""Starts and ends the service: the socket first, then the embedder, then the line that says it is ready."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn

from nfk.memory import BUDGET_GIB
from nfk.progress import told
from nfk.service.application import application
from nfk.service.gate import Gate, Limits
from nfk.service.remote import TITLE, TOKEN, Remote, started

_SHORTEST_TOKEN = 16
_CONNECTIONS = 8192
"""at most, and half of the files that the system lets a process have; /health counts, too"""
_LAST_CALL = 0.25  # seconds in which requests are read that were sent before the end
_KEEP_ALIVE = 15  # seconds


class ServeError(ValueError):
    """The service cannot be started as asked; one line."""


@dataclass(frozen=True)
class Options:
    host: str = "127.0.0.1"
    port: int = 8000
    """0: any free one"""
    index: Path | None = None
    token_file: Path | None = None
    limits: Limits = field(default_factory=Limits)
    block: int = 32
    """images embedded at once"""
    memory_gib: float = BUDGET_GIB
    """for the right factor; one that does not fit it twice is read by parts for every block"""
    drain_seconds: float = 30.0
    """in which what is queued is finished at the end"""


def serve(reference: str, options: Options) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what is queued. ServeError or WorkerError before anything is served,
    or where the process that embeds has ended. Takes the time to compile the blocks of 1, 2, 4, ... images."""
    token = _token(options)
    block, index = options.block, options.index
    if block < 1 or block & (block - 1):
        raise ServeError(f"--block {block}: must be a power of two, such as {1 << max(0, block.bit_length() - 1)}")
    with _bound(options.host, options.port) as listening, started(
            reference, None if index is None else str(index), block, options.memory_gib) as remote:
        app = application(remote, options.limits, token=token,
                          hosts=("localhost", "127.0.0.1", "[::1]", options.host))
        shown = f"[{options.host}]" if ":" in options.host else options.host
        _Server(app, f"http://{shown}:{listening.getsockname()[1]}", remote, options).run(sockets=[listening])
        lost = remote.ended
    told(TITLE, f"ended; {app.answered:,} requests answered, {app.refused:,} refused")
    if lost:
        raise ServeError("the embedder's process ended, and the service with it; was there enough memory?")


class _Server(uvicorn.Server):
    """uvicorn's, with our lines and with both signals as an end in good order."""

    def __init__(self, app: Gate, address: str, remote: Remote, options: Options) -> None:
        super().__init__(uvicorn.Config(
            app, log_level="error", access_log=False, server_header=False, limit_concurrency=_connections(),
            timeout_keep_alive=_KEEP_ALIVE, timeout_graceful_shutdown=max(1, round(options.drain_seconds)),
            ws="none", lifespan="off"))
        self._app, self._address, self._remote = app, address, remote

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self._remote.begin(self._lost)
        await super().startup(sockets)
        info = self._remote.info
        print(f"{TITLE}: {self._remote.reference} ({' x '.join(map(str, info['image_shape']))} -> {info['rank']} "
              f"numbers), digest {info['digest'][:12]}, ready on {self._address}", flush=True)

    def _lost(self) -> None:
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        told(TITLE, f"ending; {self._app.inside:,} requests are finished first")
        await asyncio.sleep(_LAST_CALL)
        await super().shutdown(sockets)
        await self._remote.end()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's raises a signal again once it has ended; here both are a wish that was granted."""
        former = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


def _connections() -> int:
    """How many may be open at once: as many files as the system allows are asked for first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * _CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, 2 * _CONNECTIONS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # a bound of the system's below the one it tells
            wanted = soft
    return wanted // 2


def _token(options: Options) -> str | None:
    """The token that clients must show; ServeError where it is missing and would be needed, or too short."""
    where, token = TOKEN, os.environ.get(TOKEN)
    if options.token_file is not None:
        where = f"--token-file {options.token_file}"
        try:
            token = options.token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ServeError(f"{where}: cannot be read ({error})") from None
    if token is None:
        if not _loopback(options.host):
            raise ServeError(f"--host {options.host} is reached from other machines and needs a token: set {TOKEN}, "
                             "or give --token-file FILE")
        return None
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ServeError(f"{where}: a token must be {_SHORTEST_TOKEN} printable ASCII characters or more, without "
                         "spaces; `openssl rand -hex 16` makes one")
    return token


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that holds the address but does not listen yet: a client meets a refusal, not a wait, until we are
    ready."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((host, port))
        except OSError as error:
            raise ServeError(f"--host {host} --port {port}: {error.strerror or error}; give another --port, or 0 for "
                             "any free one") from None
        yield made
