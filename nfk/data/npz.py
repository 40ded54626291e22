"""numpy's .npz: arrays in a zip, read as streams, and never a pickle.

Keys, the first pair that is there: x_train and y_train (with x_test and y_test), images and labels, image and
label, x and y. Images are uint8 (n, h, w) or (n, h, w, c), labels integers (n,) or (n, 1).
"""

from __future__ import annotations

import errno
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8

from nfk.data.archives import Readable
from nfk.data.decode import Wanted
from nfk.data.digest import digest
from nfk.data.image_set import DataError
from nfk.data.memory import check_room
from nfk.data.source import Part, Source, consecutive, joined

PAIRS = (("x_train", "y_train"), ("images", "labels"), ("image", "label"), ("x", "y"))
_TEST = ("x_test", "y_test")
_AT_ONCE = 2**20  # bytes in a block
_LONGEST_HEADER = 10_000  # bytes; numpy itself refuses longer ones, once they are read


class _Bounded:
    """A stream whose header, read whole by numpy whatever length it announces, is bounded."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream

    def read(self, count: int = -1, /) -> bytes:
        if not 0 <= count <= _LONGEST_HEADER:
            raise ValueError(f"a header of {count:,} bytes")
        return self._stream.read(count)


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype


def open_file(file: Path, wanted: Wanted) -> Source:
    """The set held by one .npz file."""
    with _whole(file), zipfile.ZipFile(file) as archive:
        keys = [name.removesuffix(".npy") for name in archive.namelist()]
    train = next((pair for pair in PAIRS if set(pair) <= set(keys)), None)
    if train is None:
        known = "; ".join(" and ".join(pair) for pair in PAIRS)
        raise DataError(f"{file}: keys {', '.join(keys) or 'none'}; must be {known}; rename them")
    pairs = [train, *([_TEST] if train == PAIRS[0] and set(_TEST) <= set(keys) else [])]
    shapes = [_image_shape(file, images) for images, _ in pairs]
    for (images, _), shape in zip(pairs, shapes, strict=True):
        if shape[1:] != shapes[0][1:]:
            raise DataError(f"{file}: key {images!r}: images of shape {shape[1:]}, those of {train[0]!r} have "
                            f"{shapes[0][1:]}; make all images one size")
    parts = [Part(_labels(file, labels, images, shape[0]), f"{file}: key {labels!r}")
             for (images, labels), shape in zip(pairs, shapes, strict=True)]
    labels, class_names, test_from = joined(parts[:1], parts[1:])

    def arrays() -> Iterator[UInt8[np.ndarray, "b h w c"]]:
        for (key, _), shape in zip(pairs, shapes, strict=True):
            width = math.prod(shape[1:])
            for rows in _rows(file, key, shape[0], width):
                yield wanted.made_all(rows.reshape(-1, *shape[1:]))

    return Source(file, wanted.shape(shapes[0][1:]), labels, class_names, f"NumPy file {file.name}", digest([file]),
                  test_from, lambda: consecutive(arrays()))


def _image_shape(file: Path, key: str) -> tuple[int, int, int, int]:
    with _stream(file, key) as stream:
        shape, dtype = _header(file, key, stream)
    if dtype != np.uint8 or len(shape) not in (3, 4) or min(shape) < 1 or (*shape, 1)[3] not in (1, 3):
        raise DataError(f"{file}: key {key!r} is {dtype} of shape {shape}, must be uint8 of shape (images, height, "
                        "width[, 1 or 3 channels]); convert it")
    count, height, width, channels = (*shape, 1)[:4]
    return count, height, width, channels


def _labels(file: Path, key: str, images: str, count: int) -> Integer[np.ndarray, " n"]:
    with _stream(file, key) as stream:
        shape, dtype = _header(file, key, stream)
        if dtype.kind not in "ui" or shape not in ((count,), (count, 1)):
            raise DataError(f"{file}: key {key!r} is {dtype} of shape {shape}, must be integers of shape ({count},), "
                            f"one an image of {images!r}; convert it")
        total = count * dtype.itemsize
        check_room(2 * total, f"{file}: key {key!r}", "split the file or convert it to Parquet")
        content = stream.read(total + 1)
    if len(content) != total:
        found = f"ends after {len(content):,} of {total:,}" if len(content) < total else f"goes on after its {total:,}"
        raise DataError(f"{file}: key {key!r} {found} bytes; fetch the file again")
    return np.frombuffer(content, dtype)


def _rows(file: Path, key: str, count: int, width: int) -> Iterator[UInt8[np.ndarray, "b width"]]:
    done, total, at_once = 0, count * width, max(1, _AT_ONCE // width) * width
    with _stream(file, key) as stream:
        _header(file, key, stream)
        while done < total:
            content = stream.read(min(at_once, total - done))
            done += len(content)
            if len(content) % width or not content:
                raise DataError(f"{file}: key {key!r} ends after {done:,} of {total:,} bytes; fetch the file again")
            yield np.frombuffer(content, np.uint8).reshape(-1, width)
        if stream.read(1):  # reading to the end checks the zip's CRC-32
            raise DataError(f"{file}: key {key!r} goes on after its {total:,} bytes; fetch the file again")


def _header(file: Path, key: str, stream: Readable) -> _Header:
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise DataError(f"{file}: key {key!r} is in npy format {version}, must be 1.0 or 2.0; save it again")
    shape, by_columns, dtype = read(_Bounded(stream))
    if dtype.hasobject:
        raise DataError(f"{file}: key {key!r} holds pickled objects, which are never loaded; save it as numbers")
    if by_columns and len(shape) > 1:
        raise DataError(f"{file}: key {key!r} is in column order; save numpy.ascontiguousarray of it")
    return _Header(shape, dtype)


@contextmanager
def _stream(file: Path, key: str) -> Iterator[Readable]:
    with _whole(file, key), zipfile.ZipFile(file) as archive, archive.open(f"{key}.npy") as stream:
        yield stream


@contextmanager
def _whole(file: Path, key: str | None = None) -> Iterator[None]:
    """Any fault of the file in one line."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # zipfile and numpy's reader of headers raise nearly anything at hostile bytes
        # EINVAL: a place beyond what a file can have; without a number: bzip2's own
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        where = f"{file}: key {key!r}" if key else str(file)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{where}: not a whole .npz file ({reason}); fetch it again") from error
