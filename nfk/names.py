"""Names of rows in a store: their UTF-8 bytes one after another, and where each ends.

Zarr has no settled format for strings; bytes and numbers are read by everyone, and checked like all else.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped

from nfk.store import Store


@runtime_checkable
class Writer(Protocol):
    """What writes a store, alone or with others."""

    def put(self, name: str, values: Shaped[np.ndarray, "..."]) -> None:
        """A whole array, of any shape."""


def put(writer: Writer, name: str, values: Sequence[str]) -> None:
    """Write n names as the arrays NAME_bytes (uint8) and NAME_ends (n,) (int64). A file's name that is no UTF-8 has the
    bytes that are none written as \\udcXX."""
    encoded = [value.encode("utf-8", "backslashreplace") for value in values]
    writer.put(f"{name}_bytes", np.frombuffer(b"".join(encoded), np.uint8))
    writer.put(f"{name}_ends", np.cumsum([len(value) for value in encoded], dtype=np.int64))


def read(found: Store, name: str, start: int = 0, stop: int | None = None) -> list[str] | None:
    """Those of the rows [start, stop), None where the store has none."""
    if f"{name}_ends" not in found.arrays:
        return None
    ends = found[f"{name}_ends"][:]
    edges = np.concatenate([[0], ends])[start : len(ends) + 1 if stop is None else stop + 1].tolist()
    whole = found[f"{name}_bytes"][edges[0] : edges[-1]].tobytes()
    return [whole[first - edges[0] : last - edges[0]].decode() for first, last in pairwise(edges)]
