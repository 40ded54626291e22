"""MATLAB files of version 5 with the images in `X` (h, w, c, n) and their labels in `y`, as SVHN's cropped digits.

MATLAB counts from 1: where all labels of the set are 1 to 10, label 10 is the digit 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Shaped, UInt8

from nfk.data import mat5
from nfk.data.decode import Wanted
from nfk.data.digest import digest
from nfk.data.image_set import DataError
from nfk.data.memory import check_room
from nfk.data.source import Part, Source, consecutive, joined

_AT_ONCE = 2048


def open_files(train: Sequence[Path], test: Sequence[Path], source: str, wanted: Wanted) -> Source:
    """The set held by the files. Memory: the images of a file, twice while they are unpacked."""
    files = (*train, *test)
    found = {file: _variables(file) for file in files}
    shapes = {file: _shape(file, found[file]["X"]) for file in files}
    first = shapes[files[0]]
    for file in files:
        if shapes[file][:3] != first[:3]:
            raise DataError(f"{file}: images of shape {shapes[file][:3]}, those of {files[0].name} have {first[:3]}; "
                            "use files of the same set")
    raw = {file: _labels(file, found[file]["y"], shapes[file][3]) for file in files}
    if {1, 10} == {min(each.min() for each in raw.values()), max(each.max() for each in raw.values())}:
        raw = {file: np.where(each == 10, np.int32(0), each) for file, each in raw.items()}
    parts = [[Part(raw[file], file) for file in of] for of in (train, test)]
    labels, class_names, test_from = joined(parts[0], parts[1])

    def arrays() -> Iterator[UInt8[np.ndarray, "b h w c"]]:
        for file in files:
            images = _numbers(file, found[file]["X"]).reshape(shapes[file])
            for start in range(0, images.shape[3], _AT_ONCE):
                yield wanted.made_all(np.ascontiguousarray(np.moveaxis(images[..., start:start + _AT_ONCE], 3, 0)))

    return Source(files[0], wanted.shape(first[:3]), labels, class_names, source, digest(files), test_from,
                  lambda: consecutive(arrays()))


def _variables(file: Path) -> dict[str, mat5.Variable]:
    """`X`, `y` and what else there is, by the headers."""
    with file.open("rb") as stream:
        start = stream.read(16)
    if start.startswith(b"MATLAB 7.3") or start.startswith(b"\x89HDF"):
        raise DataError(f"{file}: is a MATLAB file of version 7.3 (HDF5), must be version 5; save it with -v7")
    try:
        found = {variable.name: variable for variable in mat5.variables(file)}
    except mat5.MatError as error:
        raise _broken(file, error) from None
    for key in ("X", "y"):
        if key not in found:
            raise DataError(f"{file}: no key {key!r} (keys: {', '.join(found) or 'none'}); it must hold X and y")
        if found[key].dtype is None:
            raise DataError(f"{file}: key {key!r} is no array of numbers; convert it")
    return found


def _shape(file: Path, images: mat5.Variable) -> tuple[int, int, int, int]:
    """(h, w, c, n)."""
    if images.dtype != np.uint8:
        raise DataError(f"{file}: key 'X' is {images.dtype}, must be uint8; convert it")
    shape = images.shape if len(images.shape) == 4 else (*images.shape[:2], 1, *images.shape[2:])
    if len(shape) != 4 or shape[2] not in (1, 3) or 0 in shape:
        raise DataError(f"{file}: key 'X' has shape {images.shape}, must be (height, width, 1 or 3 channels, images); "
                        "convert it")
    check_room(2 * math.prod(shape), f"{file}: key 'X'", "split the file or convert it to Parquet")
    height, width, channels, count = shape
    return height, width, channels, count


def _labels(file: Path, variable: mat5.Variable, count: int) -> Int32[np.ndarray, " n"]:
    found = math.prod(variable.shape)
    if found != count:
        raise DataError(f"{file}: {found:,} labels in 'y' for the {count:,} images in 'X'; fetch the file again")
    check_room(16 * count, f"{file}: key 'y'", "split the file or convert it to Parquet")
    labels = _numbers(file, variable).reshape(-1)
    if not np.array_equal(labels, np.floor(labels)) or np.abs(labels).max() >= 2**31:
        raise DataError(f"{file}: key 'y' must hold whole numbers, the classes; convert it")
    return labels.astype(np.int32)


def _numbers(file: Path, variable: mat5.Variable) -> Shaped[np.ndarray, "..."]:
    try:
        return mat5.numbers(file, variable)
    except mat5.MatError as error:
        raise _broken(file, error) from None


def _broken(file: Path, error: mat5.MatError) -> DataError:
    return DataError(f"{file}: not a whole MATLAB file ({error}); fetch it again")
