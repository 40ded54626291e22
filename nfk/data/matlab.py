"""MATLAB files of version 5 with the images in `X` (h, w, c, n) and their labels in `y`, as SVHN's cropped digits.

MATLAB counts from 1: where all labels of the set are 1 to 10, label 10 is the digit 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from jaxtyping import Int32, UInt8
from scipy import io

from nfk.data.decode import Wanted
from nfk.data.digest import digest
from nfk.data.image_set import DataError
from nfk.data.source import Part, Source, consecutive, joined

_AT_ONCE = 2048


def open_files(train: Sequence[Path], test: Sequence[Path], source: str, wanted: Wanted) -> Source:
    """The set held by the files. Memory: the images of a file, twice while they are unpacked."""
    files = (*train, *test)
    shapes = {file: _shape(file) for file in files}
    first = shapes[files[0]]
    for file in files:
        if shapes[file][:3] != first[:3]:
            raise DataError(f"{file}: images of shape {shapes[file][:3]}, those of {files[0].name} have {first[:3]}; "
                            "use files of the same set")
    raw = {file: _labels(file, shapes[file][3]) for file in files}
    if {1, 10} == {min(each.min() for each in raw.values()), max(each.max() for each in raw.values())}:
        raw = {file: np.where(each == 10, np.int32(0), each) for file, each in raw.items()}
    parts = [[Part(raw[file], file) for file in of] for of in (train, test)]
    labels, class_names, test_from = joined(parts[0], parts[1])

    def arrays() -> Iterator[UInt8[np.ndarray, "b h w c"]]:
        for file in files:
            images = _variable(file, "X").reshape(shapes[file])
            if images.dtype != np.uint8:
                raise DataError(f"{file}: key 'X' is {images.dtype}, must be uint8; convert it")
            for start in range(0, images.shape[3], _AT_ONCE):
                yield wanted.made_all(np.ascontiguousarray(np.moveaxis(images[..., start:start + _AT_ONCE], 3, 0)))

    return Source(files[0], wanted.shape(first[:3]), labels, class_names, source, digest(files), test_from,
                  lambda: consecutive(arrays()))


def _shape(file: Path) -> tuple[int, int, int, int]:
    """(h, w, c, n) of `X`, by its header."""
    with file.open("rb") as stream:
        start = stream.read(16)
    if start.startswith(b"MATLAB 7.3") or start.startswith(b"\x89HDF"):
        raise DataError(f"{file}: is a MATLAB file of version 7.3 (HDF5), must be version 5; save it with -v7")
    shapes = {name: shape for name, shape, _ in _told(file, io.whosmat, str(file))}
    for key in ("X", "y"):
        if key not in shapes:
            raise DataError(f"{file}: no key {key!r} (keys: {', '.join(shapes) or 'none'}); it must hold X and y")
    shape = shapes["X"] if len(shapes["X"]) == 4 else (*shapes["X"][:2], 1, *shapes["X"][2:])
    if len(shape) != 4 or shape[2] not in (1, 3) or 0 in shape:
        raise DataError(f"{file}: key 'X' has shape {shapes['X']}, must be (height, width, 1 or 3 channels, images); "
                        "convert it")
    if 2 * math.prod(shape) > psutil.virtual_memory().available:
        raise DataError(f"{file}: key 'X' has {math.prod(shape) / 2**30:,.1f} GiB, twice that in memory is needed; "
                        "split the file or convert it to Parquet")
    height, width, channels, count = (int(extent) for extent in shape)
    return height, width, channels, count


def _labels(file: Path, count: int) -> Int32[np.ndarray, " n"]:
    labels = _variable(file, "y").reshape(-1)
    if labels.dtype.kind not in "uif" or not np.array_equal(labels, np.floor(labels)) or np.abs(labels).max() >= 2**31:
        raise DataError(f"{file}: key 'y' must hold whole numbers, the classes; convert it")
    if len(labels) != count:
        raise DataError(f"{file}: {len(labels):,} labels in 'y' for the {count:,} images in 'X'; fetch the file again")
    return labels.astype(np.int32)


def _variable(file: Path, name: str) -> Any:
    found = _told(file, io.loadmat, str(file), variable_names=[name])[name]
    if not isinstance(found, np.ndarray) or found.dtype.hasobject or found.dtype.kind not in "uif":
        raise DataError(f"{file}: key {name!r} is no array of numbers; convert it")
    return found


def _told(file: Path, read: Any, *arguments: Any, **options: Any) -> Any:
    try:
        return read(*arguments, **options)
    except Exception as error:  # scipy raises nearly anything at damaged bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{file}: not a whole MATLAB file ({reason}); fetch it again") from error
