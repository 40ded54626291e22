"""Our reader of MATLAB files beside SciPy's, where files of other writers and of unlucky lengths differ."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from scipy import io

from nfk.data import mat5

HEADER = b"MATLAB 5.0 MAT-file".ljust(124)


def element(kind: int, body: bytes, order: str = "<") -> bytes:
    return struct.pack(f"{order}II", kind, len(body)) + body + bytes(-len(body) % 8)


def packed(body: bytes) -> bytes:
    content = zlib.compress(body)
    return struct.pack("<II", 15, len(content)) + content


def written(folder: Path, elements: bytes, rest_of_header: bytes = b"\x00\x01IM") -> Path:
    (folder / "x.mat").write_bytes(HEADER + rest_of_header + elements)
    return folder / "x.mat"


FLAGS, AXES, NAME = element(6, struct.pack("<II", 9, 0)), element(5, struct.pack("<ii", 2, 3)), element(1, b"X")
VALUES = element(2, bytes(range(6)))
X = element(14, FLAGS + AXES + NAME + VALUES)


@pytest.mark.parametrize("count", [96, 101])
@pytest.mark.parametrize("at_once", [1, 2, *range(-8, 0)])
def test_a_packed_variable_may_end_anywhere_beside_the_pieces_it_is_read_in(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int, count: int) -> None:
    values = np.random.default_rng(0).integers(0, 256, count, dtype=np.uint8)
    io.savemat(tmp_path / "x.mat", {"X": values}, do_compression=True)
    size = int(np.fromfile(tmp_path / "x.mat", np.uint32, 1, offset=132)[0])
    monkeypatch.setattr(mat5, "_AT_ONCE", at_once % size)
    (variable,) = mat5.variables(tmp_path / "x.mat")
    assert np.array_equal(mat5.numbers(tmp_path / "x.mat", variable), io.loadmat(tmp_path / "x.mat")["X"])


@pytest.mark.parametrize(("order", "end"), [("<", b"\x00\x01IM"), (">", b"\x01\x00MI")])
@pytest.mark.parametrize(("axes", "name"), [(5, 1), (6, 1), (5, 16)])
def test_types_that_other_writers_use_are_read(tmp_path: Path, axes: int, name: int, order: str, end: bytes) -> None:
    body = (element(6, struct.pack(f"{order}II", 10, 0), order) + element(axes, struct.pack(f"{order}ii", 2, 3), order)
            + element(name, b"X", order) + element(3, np.arange(-1, 5, dtype=f"{order}i2").tobytes(), order))
    file = written(tmp_path, element(14, body, order), end)
    (variable,) = mat5.variables(file)
    assert variable.name == "X"
    found = mat5.numbers(file, variable)
    assert found.tolist() == [[-1, 1, 3], [0, 2, 4]]
    assert np.array_equal(found, io.loadmat(file)["X"])


def test_other_elements_and_objects_are_passed_over(tmp_path: Path) -> None:
    an_object = element(14, element(6, struct.pack("<II", 17, 0)) + element(1, b"an object"))
    file = written(tmp_path, element(2, b"a note") + an_object + X + packed(an_object))
    (variable,) = mat5.variables(file)
    assert variable[:3] == ("X", (2, 3), np.uint8)
    assert mat5.numbers(file, variable).tolist() == [[0, 2, 4], [1, 3, 5]]


@pytest.mark.parametrize("end", [b"\x00\x02IM", b"\x01\x00IM", b"\x00\x01MI", b"\x00\x01  "])
def test_a_header_of_another_version_is_refused(tmp_path: Path, end: bytes) -> None:
    with pytest.raises(mat5.MatError, match=r"^its header is not that of version 5$"):
        mat5.variables(written(tmp_path, X, end))


@pytest.mark.parametrize(("elements", "message"), [
    (X[:4], "it ends within an element"),
    (X[:-8], "an element of 64 bytes goes beyond the end"),
    (element(14, struct.pack("<II", 5 << 16 | 6, 0)), "a small element of 5 bytes"),
    (element(14, FLAGS), "a variable ends too early"),
    (packed(element(14, FLAGS)), "a variable ends too early"),
    (element(14, AXES + NAME + VALUES), "a variable without flags"),
    (element(14, element(6, bytes(4)) + AXES + NAME + VALUES), "a variable without flags"),
    (element(14, FLAGS + NAME + VALUES), "a variable without a shape"),
    (element(14, FLAGS + element(5, bytes(4)) + NAME + VALUES), "a variable without a shape"),
    (element(14, FLAGS + element(5, bytes(10)) + NAME + VALUES), "a variable without a shape"),
    (element(14, FLAGS + element(5, bytes(132)) + NAME), "an element of 132 bytes where 128 are the most"),
    (element(14, FLAGS + element(5, struct.pack("<ii", -2, 3)) + NAME), r"a variable of shape \(-2, 3\)"),
    (element(14, FLAGS + AXES + VALUES), "a variable without a name"),
    (packed(FLAGS), "a packed element is no matrix"),
    (element(15, b"no stream"), "Error -3 while decompressing data: incorrect header check"),
])
def test_a_file_that_is_not_whole_by_its_headers_is_refused(tmp_path: Path, elements: bytes, message: str) -> None:
    with pytest.raises(mat5.MatError, match=f"^{message}$"):
        mat5.variables(written(tmp_path, elements))


def without_checksum(elements: bytes) -> bytes:
    return struct.pack("<II", 15, len(elements) - 12) + elements[8:-4]


@pytest.mark.parametrize(("elements", "message"), [
    (element(14, FLAGS + AXES + NAME + element(3, bytes(12))), "values of type 3"),
    (element(14, FLAGS + AXES + NAME + element(99, bytes(6))), "values of type 99"),
    (element(14, FLAGS + AXES + NAME + element(2, bytes(5))), r"5 bytes of values for the shape \(2, 3\)"),
    (element(14, FLAGS + AXES + NAME + struct.pack("<II", 2, 6)), "a variable ends too early"),
    (packed(X + bytes(6)), "a variable does not end where it should"),
    (packed(X + bytes(8)), "a variable does not end where it should"),
    (without_checksum(packed(X)), "a variable does not end where it should"),
    (packed(X)[:-1] + b"?", "Error -3 while decompressing data: incorrect data check"),
])
def test_damaged_values_are_refused(tmp_path: Path, elements: bytes, message: str) -> None:
    (variable,) = mat5.variables(written(tmp_path, elements))
    with pytest.raises(mat5.MatError, match=f"^{message}$"):
        mat5.numbers(tmp_path / "x.mat", variable)


@pytest.mark.parametrize("value", ["text", np.asarray([1j]), np.asarray(["a", 1], object), {"field": 1}])
def test_what_is_no_array_of_real_numbers_has_none(tmp_path: Path, value: object) -> None:
    io.savemat(tmp_path / "x.mat", {"X": value})
    (variable,) = mat5.variables(tmp_path / "x.mat")
    with pytest.raises(mat5.MatError, match=r"^X holds no real numbers$"):
        mat5.numbers(tmp_path / "x.mat", variable)


def test_a_file_that_changes_between_header_and_values_is_refused(tmp_path: Path) -> None:
    (variable,) = mat5.variables(written(tmp_path, X))
    changed = element(14, FLAGS + element(5, struct.pack("<ii", 3, 2)) + NAME + VALUES)
    with pytest.raises(mat5.MatError, match=r"^it changed while it was read$"):
        mat5.numbers(written(tmp_path, changed), variable)
