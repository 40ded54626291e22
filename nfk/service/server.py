"""Starts and ends the service: the socket first, then the embedder, then the line that says it is ready."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import uvicorn

from nfk.progress import told
from nfk.service import neighbours
from nfk.service.application import Service, application
from nfk.service.batches import Batches
from nfk.service.gate import Gate, Limits
from nfk.stages.registered import Opened, opened

TOKEN = "NFK_SERVE_TOKEN"
_TITLE = "nfk serve"
_SHORTEST_TOKEN = 16
_CONNECTIONS = 1024
_NICER = 5
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
    drain_seconds: float = 30.0
    """in which what is queued is finished at the end"""


def serve(reference: str, options: Options) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what is queued. ServeError, RegistryError, StoreError or IndexFault
    before anything is served. Takes the time to compile the blocks of 1, 2, 4, ... images."""
    token = _token(options)
    sys.setswitchinterval(1e-3)  # the loop that answers /health waits for another thread one millisecond, not five
    with _bound(options.host, options.port) as listening, opened(None, reference) as found:
        index = None if options.index is None else neighbours.read(options.index, found.embedder)
        _warm(found, options.block)
        _stand_back()
        batches = Batches(found.embedder.at_once, block=options.block)
        try:
            app = application(Service(found, batches, index, options.limits), token=token,
                              hosts=("localhost", "127.0.0.1", "[::1]", options.host))
            shown = f"[{options.host}]" if ":" in options.host else options.host
            _Server(app, f"http://{shown}:{listening.getsockname()[1]}", found, options).run(sockets=[listening])
        finally:
            batches.end()
    told(_TITLE, f"ended; {app.answered:,} requests answered, {app.refused:,} refused")


class _Server(uvicorn.Server):
    """uvicorn's, with our lines and with both signals as an end in good order."""

    def __init__(self, app: Gate, address: str, found: Opened, options: Options) -> None:
        super().__init__(uvicorn.Config(
            app, log_level="error", access_log=False, server_header=False, limit_concurrency=_CONNECTIONS,
            timeout_keep_alive=_KEEP_ALIVE, timeout_graceful_shutdown=max(1, round(options.drain_seconds)),
            ws="none", lifespan="off"))
        self._app, self._address, self._found = app, address, found

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        shape = " x ".join(map(str, self._found.embedder.image_shape))
        print(f"{_TITLE}: {self._found.reference} ({shape} -> {self._found.embedder.rank} numbers), digest "
              f"{self._found.digest[:12]}, ready on {self._address}", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await asyncio.sleep(_LAST_CALL)
        told(_TITLE, f"ending; {self._app.inside:,} requests are finished first")
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's raises a signal again once it has ended; here both are a wish that was granted."""
        former = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


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


def _stand_back() -> None:
    """The threads there are by now compute: they let the one that answers go first, where the system lets a thread be
    nicer than its process (Linux)."""
    if sys.platform == "linux":
        for thread in psutil.Process().threads():
            if thread.id != threading.get_native_id():
                os.setpriority(os.PRIO_PROCESS, thread.id, os.getpriority(os.PRIO_PROCESS, 0) + _NICER)


def _warm(found: Opened, block: int) -> None:
    """Compile every size of block there will be, so that no request waits for it."""
    if block < 1 or block & (block - 1):
        raise ServeError(f"--block {block}: must be a power of two, such as {1 << max(0, block.bit_length() - 1)}")
    told(_TITLE, f"{found.reference} is loaded, every byte as it was recorded; compiling")
    size = 1
    while size <= block:
        found.embedder.at_once(np.zeros((size, *found.embedder.image_shape), np.float32))
        size *= 2
