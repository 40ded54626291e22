"""A bounded queue before the embedder: what waits is embedded together, a block at a time, first come first served."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float32, Shaped, UInt8

from nfk.stages.images import unit

Embed = Callable[[Float32[np.ndarray, "b h w c"]], Float[np.ndarray, "b k"]]
Images = UInt8[np.ndarray, "n h w c"] | Float32[np.ndarray, "n h w c"]
_MOST_SECONDS = 30
_SMOOTHING = 0.2
_FIRST_GUESS = 1e-3  # seconds an image, before any was timed


class Busy(Exception):
    """The queue is full; try again after `seconds`."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many images wait; try again in {seconds} s")
        self.seconds = seconds


class Ended(Exception):
    """The server ends, and embeds no more."""


@dataclass(eq=False)
class _Job:
    images: Images
    future: Future[Float[np.ndarray, "n k"]] = field(default_factory=Future)
    taken: int = 0
    """images in blocks already made"""
    parts: list[Float[np.ndarray, "m k"]] = field(default_factory=list)


@dataclass(frozen=True)
class _Piece:
    """Rows of one job in a block."""

    job: _Job
    images: Images
    last: bool


class Batches:
    """Embeds on one thread what `submit` hands in.

    A block holds up to `block` images of as many requests as wait, in order, with no wait for more: under load blocks
    are full, and a lone request is embedded at once. A request of more images is cut; its pieces are consecutive.
    `waiting_bytes` bounds the images that wait. An error in a block of several requests is each one's own: they are
    tried one by one. Memory: what waits, and one block as float32.
    """

    def __init__(self, embed: Embed, *, block: int = 32, waiting_bytes: int = 1 << 29) -> None:
        self._embed, self._block, self._most = embed, block, waiting_bytes
        self._jobs: deque[_Job] = deque()
        self._change = threading.Condition()
        self._waiting = self._bytes = 0
        self._seconds_an_image = _FIRST_GUESS
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="nfk-embed", daemon=True)
        self._thread.start()

    def submit(self, images: Images) -> Future[Float[np.ndarray, "n k"]]:
        """The vectors, once they are there. Busy where the images would not fit beside those waiting (a request alone
        always does); Ended after `end`."""
        with self._change:
            if self._ended:
                raise Ended
            if self._jobs and self._bytes + images.nbytes > self._most:
                raise Busy(self._seconds_left())
            job = _Job(images)
            self._jobs.append(job)
            self._waiting += len(images)
            self._bytes += images.nbytes
            self._change.notify()
        return job.future

    def seconds_left(self) -> int:
        """Whole seconds in which what waits will be done, by the speed seen so far: 1 to 30."""
        with self._change:
            return self._seconds_left()

    def _seconds_left(self) -> int:
        return min(_MOST_SECONDS, max(1, math.ceil(self._waiting * self._seconds_an_image)))

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def end(self, seconds: float = 5.0) -> None:
        """Finish the block in hand; what waits still gets Ended."""
        with self._change:
            self._ended = True
            self._change.notify()
        self._thread.join(seconds)

    def _work(self) -> None:
        while pieces := self._next():
            count, started = sum(len(piece.images) for piece in pieces), time.monotonic()
            self._answer(pieces)
            each = (time.monotonic() - started) / count
            with self._change:
                self._seconds_an_image += _SMOOTHING * (each - self._seconds_an_image)
        for job in self._jobs:
            if not job.future.done():
                job.future.set_exception(Ended())

    def _next(self) -> list[_Piece]:
        """Pieces for the next block, waiting until there are any; none once ended."""
        pieces: list[_Piece] = []
        with self._change:
            while not pieces:
                while not self._jobs and not self._ended:
                    self._change.wait()
                if self._ended:
                    return []
                self._fill(pieces)
        return pieces

    def _fill(self, pieces: list[_Piece]) -> None:
        room = self._block
        while self._jobs and room:
            job = self._jobs[0]
            images = job.images[job.taken : job.taken + room]
            job.taken += len(images)
            last = job.taken == len(job.images)
            if last:
                self._jobs.popleft()
                self._bytes -= job.images.nbytes
            self._waiting -= len(images)
            if not job.future.done():  # else the asker has gone, or an earlier piece failed
                pieces.append(_Piece(job, images, last))
                room -= len(images)

    def _answer(self, pieces: list[_Piece]) -> None:
        try:
            vectors = self._embed(np.concatenate([_unit(piece.images) for piece in pieces]))
        except Exception as error:
            if len(pieces) == 1:
                _fail(pieces[0].job, error)
            else:
                for piece in pieces:
                    self._answer([piece])
            return
        start = 0
        for piece in pieces:
            stop = start + len(piece.images)
            piece.job.parts.append(vectors[start:stop])
            start = stop
            if piece.last and piece.job.future.set_running_or_notify_cancel():
                piece.job.future.set_result(np.concatenate(piece.job.parts))


def _fail(job: _Job, error: Exception) -> None:
    if not job.future.done() and job.future.set_running_or_notify_cancel():
        job.future.set_exception(error)


def _unit(images: Shaped[np.ndarray, "n h w c"]) -> Float32[np.ndarray, "n h w c"]:
    return unit(images) if images.dtype == np.uint8 else images
