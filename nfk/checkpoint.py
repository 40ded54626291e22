"""How long computations leave their state behind, without knowing where it goes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from nfk import durable

_CHUNK = 1 << 20


class RowFile:
    """An array of `columns` numbers a row in a file, written and read by rows: what grows with n stays off the heap.

    Rows are written in order, in blocks; the bytes are the array's own, in C order. Without a path the file has no
    name and is gone with the object.
    """

    def __init__(self, columns: int, dtype: np.dtype | type, path: Path | None = None) -> None:
        self._width = columns * np.dtype(dtype).itemsize
        self.columns, self.dtype = columns, np.dtype(dtype)
        if path is not None:
            durable.make_folders(path.parent)
        self._file = durable.nameless() if path is None else durable.opened(path)

    def write(self, start: int, rows: Float[np.ndarray, "b c"]) -> None:
        """Rows [start, start + b)."""
        self._file.write(np.ascontiguousarray(rows, self.dtype).reshape(-1).view(np.uint8), start * self._width)

    def read(self, start: int, stop: int) -> Float[np.ndarray, "b c"]:
        """Rows [start, stop)."""
        content = self._file.read((stop - start) * self._width, start * self._width)
        return np.frombuffer(content, self.dtype).reshape(-1, self.columns)

    def sync(self) -> None:
        """Put on disk what was written."""
        self._file.sync()

    def checksum(self, stop: int, start: int = 0) -> int:
        """CRC-32 of rows [start, stop), those that are there."""
        crc, at, left = 0, start * self._width, (stop - start) * self._width
        while content := self._file.read(min(left, _CHUNK), at):
            crc, at, left = zlib.crc32(content, crc), at + len(content), left - len(content)
        return crc


@runtime_checkable
class Checkpoint(Protocol):
    """Named sets of arrays that outlive the process. `nfk.store.Scratch` is one."""

    def due(self) -> bool:
        """Whether enough time has gone by for a save inside a pass to be worth its bytes."""

    def save(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep `arrays` under `name`, whole or not at all."""

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """What was kept under `name`, bit for bit, or None."""


@runtime_checkable
class RowCheckpoint(Checkpoint, Protocol):
    """A Checkpoint that keeps tall arrays too, by rows."""

    def rows(self, name: str, columns: int, dtype: np.dtype | type) -> RowFile:
        """The file of rows under `name`, with what was written to it before."""


class Forgetful:
    """Keeps nothing: for short work and for library use without a folder."""

    def due(self) -> bool:
        return False

    def save(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        pass

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        return None

    def rows(self, name: str, columns: int, dtype: np.dtype | type) -> RowFile:
        return RowFile(columns, dtype)
