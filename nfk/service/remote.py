"""The process that embeds, seen from the one that answers."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from nfk.service import frames

TITLE = "nfk serve"
TOKEN = "NFK_SERVE_TOKEN"
_PATIENCE = 10.0  # seconds for it to end by itself


class WorkerError(ValueError):
    """The embedder cannot be loaded, or its process has ended; one line."""


class Answer(NamedTuple):
    status: int
    body: bytes


class Remote:
    """Requests over the socket and their answers, told apart by number."""

    def __init__(self, channel: socket.socket, info: dict[str, Any], reference: str) -> None:
        self.info, self.reference = info, reference
        self.seconds_left = 1
        """in which what waits will be done, as the last answer had it"""
        self.ended = False
        self._channel = channel
        self._numbers, self._waiting = itertools.count(), dict[int, asyncio.Future[Answer]]()

    async def begin(self, lost: Callable[[], None]) -> None:
        """To be awaited once, in the loop that will ask; `lost` is called if the process ends."""
        self._channel.setblocking(False)
        self._reader, self._writer = await asyncio.open_connection(sock=self._channel)
        self._listening = asyncio.create_task(self._listen(lost))

    async def ask(self, head: dict[str, Any], body: bytes) -> Answer:
        """Status and JSON for a request; 503 where the process has ended."""
        if self.ended:
            return _gone()
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(frames.packed({**head, "id": number}, body))
            return await answer
        finally:
            self._waiting.pop(number, None)

    async def end(self) -> None:
        """No more is asked; the process ends."""
        self._listening.cancel()
        self._writer.close()

    async def _listen(self, lost: Callable[[], None]) -> None:
        while (frame := await frames.receive(self._reader)) is not None:
            self.seconds_left = frame.head["left"]
            answer = self._waiting.get(frame.head["id"])
            if answer is not None and not answer.done():
                answer.set_result(Answer(frame.head["status"], frame.body))
        self.ended = True
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_result(_gone())
        lost()


def _gone() -> Answer:
    return Answer(503, b'{"error":"the embedder has ended; the service has to be started again"}')


@contextmanager
def started(reference: str, index: str | None, block: int, memory_gib: float) -> Iterator[Remote]:
    """The process, with the embedder loaded and compiled; WorkerError where that fails, with its own words. It is ended
    with the block, and by itself if this process is killed."""
    ours, theirs = socket.socketpair()
    environment = {name: value for name, value in os.environ.items() if name != TOKEN}  # a user's module needs none
    # glibc makes more arenas whenever two threads meet, for ever: half an hour under an even load grew by a tenth
    environment.setdefault("MALLOC_ARENA_MAX", "1")
    with ours, subprocess.Popen([sys.executable, "-m", "nfk.service.worker", str(theirs.fileno())],
                                pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL,
                                start_new_session=True) as process:  # a Ctrl-C is for this one, which tells the other
        theirs.close()
        loaded = False
        try:
            ours.sendall(frames.packed({"reference": reference, "index": index, "block": block,
                                        "memory_gib": memory_gib}))
            with ours.makefile("rb") as stream:
                first = frames.read(stream)
            if first is None:
                raise WorkerError(f"the embedder's process ended while loading (exit code {process.wait()}); is there "
                                  "enough memory?")
            if "error" in first.head:
                raise WorkerError(first.head["error"])
            loaded = True
            yield Remote(ours, first.head["info"], first.head["reference"])
        finally:
            with suppress(OSError):
                ours.shutdown(socket.SHUT_RDWR)
            try:
                process.wait(_PATIENCE if loaded else 0)
            except subprocess.TimeoutExpired:
                process.kill()
