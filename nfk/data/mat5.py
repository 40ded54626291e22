"""MATLAB files of version 5: the variables of a file, and the numbers of one; nothing else of the format.

A file is 128 bytes of header, then elements: a tag of two uint32 (type, bytes; both in four bytes where there are 4
bytes of data or fewer) and data, up to a multiple of 8. A variable is an element `matrix` of elements (flags with its
class, lengths of its axes, name, values in column order), or the zlib stream of one. Definition: MATLAB's "MAT-File
Format". SciPy's reader trusts the numbers in it, and ends the process on some that are wrong.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Shaped

Order = Literal["<", ">"]
_HEADER = 128
_MATRIX, _COMPRESSED, _FLAGS = 14, 15, 6
_AXES, _NAME = (5, 6), (1, 16)
"""Types of a variable's axes, int32 or uint32, and of its name, int8 or UTF-8: both are written"""
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_IS_COMPLEX = 0x0800
_MOST_AXES, _LONGEST_NAME, _AT_ONCE = 32, 4096, 1 << 20


class MatError(Exception):
    """What is wrong with a file, in few words."""


class Variable(NamedTuple):
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype | None
    """None: no real numbers, or not all of them written down (text, cells, sparse or complex matrices)"""
    at: int
    """the byte at which its element begins"""


def variables(file: Path) -> list[Variable]:
    """Those of the file, by their headers. MatError where it is not whole, as far as that is seen from these."""
    with file.open("rb") as stream:
        order, length = _order(stream), file.stat().st_size
        found, at = [], _HEADER
        while at < length:
            stream.seek(at)
            kind, size, _ = _tag(stream.read(8), order)
            if at + 8 + size > length:
                raise MatError(f"an element of {size:,} bytes goes beyond the end")
            if kind in (_MATRIX, _COMPRESSED):
                found += [Variable(name, shape, dtype, at) for name, shape, dtype in _heads(_matrix(stream, at, order),
                                                                                            order)]
            at += 8 + size + (-size % 8 if kind != _COMPRESSED else 0)
    return found


def numbers(file: Path, variable: Variable) -> Shaped[np.ndarray, "..."]:
    """The values. MatError where they are damaged. Memory: twice their size while they are unpacked."""
    if variable.dtype is None:
        raise MatError(f"{variable.name} holds no real numbers")
    with file.open("rb") as stream:
        order = _order(stream)
        matrix = _matrix(stream, variable.at, order)
        if next(_heads(matrix, order), None) != variable[:3]:
            raise MatError("it changed while it was read")
        kind, size, small = _tag(matrix.read(8), order)
        stored = np.dtype(_TYPES.get(kind, "V1")).newbyteorder(order)
        if kind not in _TYPES or stored.itemsize > variable.dtype.itemsize:
            raise MatError(f"values of type {kind}")
        if size != math.prod(variable.shape) * stored.itemsize:
            raise MatError(f"{size:,} bytes of values for the shape {variable.shape}")
        content = small if small is not None else matrix.read(size)
        matrix.finish()
    values = np.frombuffer(content, stored).astype(variable.dtype, copy=False)
    return values.reshape(variable.shape, order="F")


class _Matrix:
    """The data of one matrix, unpacked as it is read."""

    def __init__(self, stream: io.BufferedIOBase, left: int, unpack: bool) -> None:
        self._stream, self._left = stream, left
        self._unpacker = zlib.decompressobj() if unpack else None

    def read(self, count: int) -> bytes:
        """Just so many bytes."""
        parts, missing = [], count
        while missing:
            part = self._some(min(missing, _AT_ONCE))
            if not part:
                raise MatError("a variable ends too early")
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def finish(self) -> None:
        """To the checksum at the end of a zlib stream; what pads the values is all that may be left."""
        if self._unpacker is None:
            return
        left = 0
        while left < 8 and (part := self._some(8)):  # its checksum may begin another piece of the file
            left += len(part)
        if left > 7 or not self._unpacker.eof:
            raise MatError("a variable does not end where it should")

    def _some(self, count: int) -> bytes:
        if self._unpacker is None:
            part = self._stream.read(min(count, self._left))
            self._left -= len(part)
            return part
        try:
            while not self._unpacker.eof:
                packed = self._unpacker.unconsumed_tail or self._stream.read(min(_AT_ONCE, self._left))
                self._left -= 0 if self._unpacker.unconsumed_tail else len(packed)
                part = self._unpacker.decompress(packed, count)
                if part or not packed:
                    return part
        except zlib.error as error:
            raise MatError(str(error)) from None
        return b""


def _order(stream: io.BufferedIOBase) -> Order:
    """How its numbers are written, "<" or ">"."""
    header = stream.read(_HEADER)
    if len(header) < _HEADER:
        raise MatError(f"{len(header)} bytes, its header alone has {_HEADER}")
    orders: dict[bytes, Order] = {b"IM": "<", b"MI": ">"}
    order = orders.get(header[126:])
    if order is None or header[125 if order == "<" else 124] != 1:
        raise MatError("its header is not that of version 5")
    return order


def _tag(tag: bytes, order: Order) -> tuple[int, int, bytes | None]:
    """Type, bytes, and the data where the tag itself has it."""
    if len(tag) < 8:
        raise MatError("it ends within an element")
    kind, size = np.frombuffer(tag, f"{order}u4").tolist()
    if kind >> 16:
        if kind >> 16 > 4:
            raise MatError(f"a small element of {kind >> 16:,} bytes")
        return kind & 0xFFFF, kind >> 16, tag[4:4 + (kind >> 16)]
    return kind, size, None


def _matrix(stream: io.BufferedIOBase, at: int, order: Order) -> _Matrix:
    """The matrix whose element, packed or not, begins at byte `at`."""
    stream.seek(at)
    kind, size, _ = _tag(stream.read(8), order)
    matrix = _Matrix(stream, size, kind == _COMPRESSED)
    if kind == _COMPRESSED and _tag(matrix.read(8), order)[0] != _MATRIX:
        raise MatError("a packed element is no matrix")
    return matrix


def _heads(matrix: _Matrix, order: Order) -> Iterator[tuple[str, tuple[int, ...], np.dtype | None]]:
    """Name, shape and dtype of the matrix, which is then read to its values; none of an object's, which has others."""
    kind, flags = _element(matrix, order, 8)
    if kind != _FLAGS or len(flags) != 8:
        raise MatError("a variable without flags")
    flag = int(np.frombuffer(flags, f"{order}u4")[0])
    if flag & 0xFF > 16:  # functions and opaque objects
        return
    kind, axes = _element(matrix, order, 4 * _MOST_AXES)
    if kind not in _AXES or len(axes) < 8 or len(axes) % 4:
        raise MatError("a variable without a shape")
    shape = tuple(np.frombuffer(axes, f"{order}i4").tolist())
    if min(shape) < 0:
        raise MatError(f"a variable of shape {shape}")
    kind, name = _element(matrix, order, _LONGEST_NAME)
    if kind not in _NAME:
        raise MatError("a variable without a name")
    code = None if flag & _IS_COMPLEX else _CLASSES.get(flag & 0xFF)
    yield name.decode("latin-1"), shape, None if code is None else np.dtype(code)


def _element(matrix: _Matrix, order: Order, most: int) -> tuple[int, bytes]:
    kind, size, small = _tag(matrix.read(8), order)
    if small is not None:
        return kind, small
    if size > most:
        raise MatError(f"an element of {size:,} bytes where {most:,} are the most")
    return kind, matrix.read(size + -size % 8)[:size]
