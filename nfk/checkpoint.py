"""How long computations leave their state behind, without knowing where it goes."""

from __future__ import annotations

import os
import tempfile
import weakref
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

_CHUNK = 1 << 20


class RowFile:
    """An array of `columns` numbers a row in a file, written and read by rows: what grows with n stays off the heap.

    Rows are written in order, in blocks; the bytes are the array's own, in C order. Without a path the file has no
    name and is gone with the object.
    """

    def __init__(self, columns: int, dtype: np.dtype | type, path: Path | None = None) -> None:
        self._width = columns * np.dtype(dtype).itemsize
        self.columns, self.dtype = columns, np.dtype(dtype)
        if path is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b")

        weakref.finalize(self, self._file.close)

    def write(self, start: int, rows: Float[np.ndarray, "b c"]) -> None:
        """Rows [start, start + b)."""
        self._file.seek(start * self._width)
        self._file.write(np.ascontiguousarray(rows, self.dtype).data)

    def read(self, start: int, stop: int) -> Float[np.ndarray, "b c"]:
        """Rows [start, stop)."""
        self._file.seek(start * self._width)
        content = self._file.read((stop - start) * self._width)
        return np.frombuffer(content, self.dtype).reshape(-1, self.columns)

    def sync(self) -> None:
        """Put on disk what was written."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def checksum(self, stop: int) -> int:
        """CRC-32 of rows [0, stop), those that are there."""
        self._file.seek(0)
        crc, left = 0, stop * self._width
        while content := self._file.read(min(left, _CHUNK)):
            crc, left = zlib.crc32(content, crc), left - len(content)
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
