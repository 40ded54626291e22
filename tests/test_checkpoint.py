"""Rows in a file, with a path and without; what keeps nothing keeps nothing."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from nfk.checkpoint import Checkpoint, Forgetful, RowCheckpoint, RowFile

ROWS = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)


@pytest.mark.parametrize("named", [True, False])
def test_rows_come_back_by_any_range(tmp_path, named):
    file = RowFile(3, np.float32, tmp_path / "deep/rows" if named else None)
    file.write(0, ROWS[:4])
    file.write(4, ROWS[4:].astype(np.float64))  # made of the file's own type
    file.sync()
    for start in range(10):
        for stop in range(start, 10):
            np.testing.assert_array_equal(file.read(start, stop), ROWS[start:stop])
            assert file.checksum(stop, start) == zlib.crc32(ROWS[start:stop].tobytes())
    assert file.checksum(100) == zlib.crc32(ROWS.tobytes())  # of those that are there
    assert named == (tmp_path / "deep/rows").exists()


def test_a_file_of_before_goes_on(tmp_path):
    RowFile(3, np.float32, tmp_path / "rows").write(0, ROWS[:5])
    again = RowFile(3, np.float32, tmp_path / "rows")
    again.write(5, ROWS[5:])
    np.testing.assert_array_equal(again.read(0, 9), ROWS)


def test_a_checksum_is_over_pieces_of_a_long_file(monkeypatch):
    monkeypatch.setattr("nfk.checkpoint._CHUNK", 16)
    file = RowFile(3, np.float32)
    file.write(0, ROWS)
    assert file.checksum(9) == zlib.crc32(ROWS.tobytes())


def test_what_keeps_nothing_keeps_nothing():
    forgetful = Forgetful()
    assert isinstance(forgetful, Checkpoint) and isinstance(forgetful, RowCheckpoint)
    forgetful.save("pass", {"sum": ROWS})
    assert not forgetful.due() and forgetful.load("pass") is None
    rows = forgetful.rows("pass", 3, np.float32)
    rows.write(0, ROWS)
    np.testing.assert_array_equal(rows.read(2, 5), ROWS[2:5])
