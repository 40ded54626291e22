"""Matrices that need not be in one memory: a tall one read by rows, a few long rows read by columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float

from nfk.checkpoint import RowFile

_PIECE = 1 << 16
"""Rows read at a time where each is used once and forgotten"""


@runtime_checkable
class Tall(Protocol):
    """p x k numbers read by rows, right[start:stop]: an array in memory, one of Zarr, or a `ReadByRows`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, rows: slice) -> Any: ...


def pieces(tall: Tall, rows: int = _PIECE) -> Iterator[tuple[int, Float[np.ndarray, "q k"]]]:
    """The first row and the numbers of each piece of `rows` rows, in order; one piece is in memory at a time."""
    whole: Any = np.asarray(tall) if isinstance(tall, jax.Array) else tall  # on a CPU the same memory
    for start in range(0, tall.shape[0], rows):
        yield start, np.asarray(whole[start : min(start + rows, tall.shape[0])])


class ReadByRows(ABC):
    """W read by rows, factor[start:stop]; np.asarray(factor) reads it whole."""

    shape: tuple[int, int]
    dtype: np.dtype

    @abstractmethod
    def _read(self, start: int, stop: int) -> Float[np.ndarray, "_ k"]:
        """Rows [start, stop)."""

    def __getitem__(self, rows: slice) -> Float[np.ndarray, "_ k"]:
        start, stop, step = rows.indices(self.shape[0])
        if step != 1:
            raise IndexError(f"a step of {step}: rows of a factor in parts are read one after the other; leave it out")
        return self._read(start, max(start, stop))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy  # it is always one
        return np.asarray(self[:], dtype)


class FiledFactor(ReadByRows):
    """W = image * signs / lengths, p x k, its image in a file: what is read is scaled as it comes."""

    def __init__(self, image: RowFile, rows: int, lengths: Float[np.ndarray, " k"], signs: Float[np.ndarray, " k"]
                 ) -> None:
        self.shape, self.dtype = (rows, image.columns), image.dtype
        self._image = image
        self._lengths, self._signs = lengths.astype(self.dtype), signs.astype(self.dtype)

    def _read(self, start: int, stop: int) -> Float[np.ndarray, "_ k"]:
        part = self._image.read(start, stop) / self._lengths[None, :]
        part *= self._signs[None, :]
        return part


class FiledRows:
    """A few rows of p float64 numbers in a file that has no name, read by columns: rows[:, start:stop]."""

    def __init__(self, columns: int) -> None:
        self.shape = (0, columns)
        self._file = RowFile(1, np.float64)

    def append(self, rows: Float[np.ndarray, "m p"]) -> None:
        """Rows after those that are there."""
        for row in rows:
            self._file.write(self.shape[0] * self.shape[1], row[:, None])
            self.shape = (self.shape[0] + 1, self.shape[1])

    def __getitem__(self, places: tuple[slice, slice]) -> Float[np.ndarray, "m q"]:
        (first, last, _), (start, stop, _) = (place.indices(size)
                                              for place, size in zip(places, self.shape, strict=True))
        found = np.empty((last - first, stop - start))
        for row in range(first, last):
            at = row * self.shape[1]
            found[row - first] = self._file.read(at + start, at + stop)[:, 0]
        return found
