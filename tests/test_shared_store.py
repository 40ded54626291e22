"""One store, written by several processes: each its own shards, however many, and none where it has no rows."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from nfk import shared_store, store
from nfk.linalg.group import Alone
from tests.thread_group import Member, together


class Read:
    """Rows that are made when they are read, no more than a shard at once."""

    def __init__(self, rows: np.ndarray, most: int) -> None:
        self.shape, self.dtype, self._rows, self._most = rows.shape, rows.dtype, rows, most

    def __getitem__(self, rows: slice) -> np.ndarray:
        found = self._rows[rows]
        assert len(found) <= self._most
        return found


@pytest.mark.parametrize("size, share", [(2, 24), (3, 16), (5, 12)])
def test_rows_of_all_come_together_a_shard_at_a_time(tmp_path, monkeypatch, size, share):
    monkeypatch.setattr(store, "_SHARD_BYTES", 256)  # 8 rows of 32 bytes, or as many as divide the share
    monkeypatch.setattr(store, "_CHUNK_BYTES", 64)
    rows = np.random.default_rng(0).standard_normal((37, 8)).astype(np.float32)

    def write(member):
        start = min(member.index * share, len(rows))
        with shared_store.write(tmp_path / "some.zarr", inputs={}, group=member) as writer:
            writer.put_rows("rows", Read(rows[start : start + share], 8), start=start, total=len(rows), share=share)

    together(size, write)
    found = store.read(tmp_path / "some.zarr")["rows"]
    assert size * share > len(rows) and found.shards[0] < share and share % found.shards[0] == 0
    assert np.array_equal(found[:], rows)
    with shared_store.write(tmp_path / "one.zarr", inputs={}, group=Alone()) as writer:
        writer.put_rows("rows", Read(rows, 8), start=0, total=len(rows), share=share)
    assert np.array_equal(store.read(tmp_path / "one.zarr")["rows"][:], rows)


def test_one_array_of_all_is_written_once(tmp_path):
    def write(member):
        with shared_store.write(tmp_path / "some.zarr", inputs={}, group=member) as writer:
            writer.put("values", np.arange(3))
            writer.put_by_shards("rows", np.ones((4, 2), np.float32))

    together(2, write)
    found = store.read(tmp_path / "some.zarr")
    assert found["values"][:].tolist() == [0, 1, 2] and np.array_equal(found["rows"][:], np.ones((4, 2)))


def test_a_process_without_the_folder_of_the_first_says_so(tmp_path):
    said = np.frombuffer(b".some.zarr.4711.partial".ljust(shared_store._NAME, b"\0"), np.uint8).astype(np.int32)
    second = Member(1, [said, None], threading.Barrier(1))
    with (pytest.raises(store.StoreError, match=r"process 1 does not see .*/\.some\.zarr\.4711\.partial, which "
                                                "process 0 has made; give all processes one folder on a file system"),
          shared_store.write(tmp_path / "some.zarr", inputs={}, group=second)):
        pass
