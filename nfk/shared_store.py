"""One store written by several processes, each its own whole shards, on a file system that all of them see.

Process 0 builds it as `nfk.store.write` does: it makes the arrays, waits for the others' rows, and writes the done mark
last. zarr rewrites a shard that two writers share, and loses rows of one: so shards are cut where the shares are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nfk import durable, store
from nfk.linalg.group import Group, from_first
from nfk.linalg.tall import Tall

_NAME = 255


class SharedWriter:
    """Process 0's writer as every process sees it: the same calls in all of them."""

    def __init__(self, folder: Path, writer: store.StoreWriter | None, group: Group) -> None:
        self._folder, self._writer, self._group = folder, writer, group
        self.attributes: dict[str, Any] = {} if writer is None else writer.attributes

    def put(self, name: str, values: np.ndarray) -> None:
        """An array that every process has: process 0 writes it."""
        if self._writer is not None:
            self._writer.put(name, values)

    def put_by_shards(self, name: str, values: Any) -> None:
        """An array that every process has, or can read by rows: process 0 writes it, a shard in memory at a time."""
        if self._writer is not None:
            self._writer.put_by_shards(name, values)

    def put_rows(self, name: str, rows: Tall, *, start: int, total: int, share: int) -> None:
        """This process's `rows` of an array of `total`, from row `start` on, a multiple of `share`: what all but the
        last ones have. A shard is in memory at a time."""
        if self._group.size == 1:
            self.put_by_shards(name, rows)
            return
        if self._writer is not None:
            self._writer.create(name, (total, *rows.shape[1:]), rows.dtype, share=share)
        _wait(self._group)  # the array is there
        if rows.shape[0] > 0:
            import zarr

            from nfk.zarr_folder import FilledFolder

            array = zarr.open_array(FilledFolder(self._folder), path=name, mode="r+", zarr_format=3)
            shard = (array.shards or array.chunks)[0]
            for low in range(0, rows.shape[0], shard):
                part = rows[low : low + shard]
                array[start + low : start + low + len(part)] = part
            durable.sync_tree(self._folder / name)  # the one who marks it done may be on another host
        _wait(self._group)  # the rows are there


@contextmanager
def write(path: Path | str, *, inputs: Mapping[str, str], group: Group) -> Iterator[SharedWriter]:
    """`nfk.store.write` for all processes of a group. StoreError where a process does not see process 0's files."""
    path = Path(path)
    if group.index == 0:
        with store.write(path, inputs=inputs) as writer:
            _said_by_first(group, writer.folder.name)
            yield SharedWriter(writer.folder, writer, group)
    else:
        folder = path.parent / _said_by_first(group, "")
        if not folder.is_dir():
            raise store.StoreError(f"process {group.index} does not see {folder}, which process 0 has made; give all "
                                   "processes one folder on a file system that they share")
        yield SharedWriter(folder, None, group)
    _wait(group)  # the store is whole


def _said_by_first(group: Group, text: str) -> str:
    """The `text` of process 0, of 255 bytes at most."""
    code = np.frombuffer(text.encode().ljust(_NAME, b"\0"), np.uint8).astype(np.int32)
    return bytes(from_first(group, code).tolist()).rstrip(b"\0").decode()


def _wait(group: Group) -> None:
    """Until every process is here."""
    group.total(np.zeros(1, np.int32))
