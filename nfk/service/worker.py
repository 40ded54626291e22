"""The process that embeds: `python -m nfk.service.worker FILE-DESCRIPTOR`, started by the one that answers.

A process of its own, so that decoding, compiling and embedding never hold the interpreter that answers /health and
refuses whom there is no room for. It ends when the other end of its socket closes, whatever ended that.

First frame in: what to load. First frame out: what was loaded, or {"error": one line}. Then requests {id, path, type,
resize, k or count} with a body, and answers {id, status, left} with JSON, in the order they are done; `left` is the
seconds in which what waits will be done.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from nfk.embedder import EmbedderError
from nfk.fisher.scores import ScoreError
from nfk.progress import told
from nfk.service import frames, neighbours
from nfk.service.batches import Batches, Busy, Ended
from nfk.service.frames import Frame
from nfk.service.images import Given, Refused, read
from nfk.service.neighbours import Neighbours
from nfk.service.remote import TITLE
from nfk.stages.registered import Opened, opened

_NICE = 10  # where processors are few, /health and refusals come first: they cost little
_THREADS = 2  # decode and search; more would only take turns with the embedder


class Worker:
    """Answers frames until there are no more."""

    def __init__(self, channel: socket.socket, found: Opened, index: Neighbours | None, block: int) -> None:
        self._channel, self._found, self._index = channel, found, index
        self._batches = Batches(found.embedder.at_once, block=block)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="nfk-decode")
        self._sending = threading.Lock()
        self._model = {"model": found.name, "version": found.version, "digest": found.digest,
                       "rank": found.embedder.rank}

    def info(self) -> dict[str, Any]:
        """What /info says, and the line that says it is ready."""
        embedder = self._found.embedder
        return {**self._model, "image_shape": embedder.image_shape, "scaling": embedder.settings["scaling"],
                "inputs": dict(embedder.inputs), "lineage": dict(self._found.lineage),
                "index": None if self._index is None else {"path": str(self._index.path), "vectors": len(self._index)}}

    def run(self, stream: Any) -> None:
        while (frame := frames.read(stream)) is not None:
            self._pool.submit(self._begin, frame)
        self._pool.shutdown(cancel_futures=True)
        self._batches.end()

    def _begin(self, frame: Frame) -> None:
        """Decode, and queue for the embedder; the answer is sent when the vectors are there."""
        head = frame.head
        try:
            given = read(frame.body, head["type"], self._found.embedder.image_shape, resize=head["resize"])
            vectors = self._batches.submit(given.images)
        except Exception as fault:
            self._send(head, *_fault(fault))
            return
        if head["path"] == "embed":
            vectors.add_done_callback(lambda done: self._finish(head, given, done))
        else:  # the search has its own time, which the embedder's thread is spared
            vectors.add_done_callback(lambda done: self._pool.submit(self._finish, head, given, done))

    def _finish(self, head: dict[str, Any], given: Given, vectors: Future[np.ndarray]) -> None:
        try:
            found = vectors.result()
            answer: dict[str, Any] = {**self._model, "names": given.names}
            if head["path"] == "embed":
                answer["vectors"] = np.ascontiguousarray(found[:, : head["k"]])
            elif self._index is not None:
                near = self._index.nearest(found, head["count"])
                answer["neighbours"] = [[neighbour._asdict() for neighbour in each] for each in near]
            self._send(head, 200, answer)
        except Exception as fault:
            self._send(head, *_fault(fault))

    def _send(self, head: dict[str, Any], status: int, content: dict[str, Any]) -> None:
        body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
        answer = frames.packed({"id": head["id"], "status": status, "left": self._batches.seconds_left()}, body)
        with self._sending, suppress(OSError):  # the other end has gone: so will this one
            self._channel.sendall(answer)


def _fault(fault: Exception) -> tuple[int, dict[str, Any]]:
    """The status and the one line of what went wrong; what nobody foresaw is logged too."""
    if isinstance(fault, Refused):
        return fault.status, {"error": str(fault)}
    if isinstance(fault, EmbedderError | ScoreError):
        return 422, {"error": str(fault)}
    if isinstance(fault, Busy):
        return 503, {"error": str(fault)}
    if isinstance(fault, Ended):
        return 503, {"error": "the service ends; ask again in a moment"}
    told(TITLE, f"{type(fault).__name__}: {' '.join(str(fault).split())[:300]}", warning=True)
    return 500, {"error": f"an internal fault ({type(fault).__name__}); the service's log has more"}


def _warm(found: Opened, block: int) -> None:
    """Compile every size of block there will be, so that no request waits for it."""
    told(TITLE, f"{found.reference} is loaded, every byte as it was recorded; compiling")
    size = 1
    while size <= block:
        found.embedder.at_once(np.zeros((size, *found.embedder.image_shape), np.float32))
        size *= 2


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # the end is told by the socket, when what is queued is done
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICE)
    with socket.socket(fileno=int(sys.argv[1])) as channel, channel.makefile("rb") as stream:
        asked = frames.read(stream)
        if asked is None:
            return
        try:
            with opened(None, asked.head["reference"], asked.head["memory_gib"]) as found:
                at = asked.head["index"]
                index = None if at is None else neighbours.read(Path(at), found.embedder)
                _warm(found, asked.head["block"])
                worker = Worker(channel, found, index, asked.head["block"])
                channel.sendall(frames.packed({"info": worker.info(), "reference": found.reference}))
                worker.run(stream)
        except (ValueError, OSError, MemoryError) as error:
            with suppress(OSError):
                channel.sendall(frames.packed({"error": str(error) or type(error).__name__}))


if __name__ == "__main__":
    main()
