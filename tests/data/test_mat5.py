"""Our reader of MATLAB files beside SciPy's, where files of other writers and of unlucky lengths differ."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from scipy import io

from nfk.data import mat5


@pytest.mark.parametrize("left", range(1, 9))
def test_a_packed_variable_may_end_anywhere_beside_the_pieces_it_is_read_in(tmp_path: Path, left: int) -> None:
    def packed(count: int) -> int:
        values = np.random.default_rng(0).integers(0, 256, count, dtype=np.uint8)
        io.savemat(tmp_path / "x.mat", {"X": values}, do_compression=True)
        return int(np.fromfile(tmp_path / "x.mat", np.uint32, 1, offset=132)[0])

    count, wanted = 1_048_177, (1 << 20) + left
    for _ in range(4):
        count += wanted - packed(count)
    (variable,) = mat5.variables(tmp_path / "x.mat")
    assert np.array_equal(mat5.numbers(tmp_path / "x.mat", variable), io.loadmat(tmp_path / "x.mat")["X"])


@pytest.mark.parametrize(("axes", "name"), [(5, 1), (6, 1), (5, 16)])
def test_types_that_other_writers_use_are_read(tmp_path: Path, axes: int, name: int) -> None:
    def element(kind: int, body: bytes) -> bytes:
        return struct.pack("<II", kind, len(body)) + body + bytes(-len(body) % 8)

    body = (element(6, struct.pack("<II", 9, 0)) + element(axes, struct.pack("<ii", 2, 3)) + element(name, b"X")
            + element(2, bytes(range(6))))
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    (tmp_path / "x.mat").write_bytes(header + element(14, body))
    (variable,) = mat5.variables(tmp_path / "x.mat")
    assert variable.name == "X"
    found = mat5.numbers(tmp_path / "x.mat", variable)
    assert found.tolist() == [[0, 2, 4], [1, 3, 5]]
    assert np.array_equal(found, io.loadmat(tmp_path / "x.mat")["X"])
