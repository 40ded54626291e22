"""IDX, the format of MNIST and its kin: images in one file, labels in another, plain or gzip.

A file is a magic number (two zero bytes, 0x08 for unsigned bytes, the number of axes), the length of each
axis as a big-endian uint32, then the bytes, last axis fastest. Images have three axes (n, h, w) or four
(n, h, w, c), labels one. Definition: the foot of LeCun's MNIST page.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from nfk.data.decode import Wanted
from nfk.data.digest import digest
from nfk.data.image_set import DataError
from nfk.data.parts import Parts, official_parts
from nfk.data.source import Part, Source, consecutive, joined

UNSIGNED_BYTES = b"\0\0\x08"
GZIP = b"\x1f\x8b"
_AT_ONCE = 2**20  # bytes in a block
_AGAIN = "fetch the file again"


class _Pair(NamedTuple):
    """An images file and its labels file."""

    images: Path
    labels: Path
    shape: tuple[int, int, int, int]  # (n, h, w, c)


def open_folder(folder: Path, files: Sequence[Path], wanted: Wanted) -> Source:
    """The set held by the IDX `files` of `folder`: one pair, or a train pair and a test (t10k) pair.

    Where a file lies both plain and as .gz, the plain one is read.
    """
    names = {file.name for file in files}
    axes = {file: _axes(file) for file in files
            if not (file.suffix == ".gz" and file.name.removesuffix(".gz") in names)}
    images = official_parts([file for file, lengths in axes.items() if len(lengths) > 1])
    labels = official_parts([file for file, lengths in axes.items() if len(lengths) == 1])
    pairs = []
    for part, of_images, of_labels in zip(Parts._fields, images, labels, strict=True):
        if len(of_images) != len(of_labels) or len(of_images) > 1:
            found = ", ".join(file.name for file in (*of_images, *of_labels))
            raise DataError(f"{folder}: the {part} part must be one images file and one labels file, found "
                            f"{found}; add the missing one, or point data.source at one images file")
        pairs += [_pair(*both, axes) for both in zip(of_images, of_labels, strict=True)]
    return _open_pairs(pairs, f"IDX files of {folder.resolve().name}", wanted)


def open_file(file: Path, wanted: Wanted) -> Source:
    """The set of one images file and the labels file beside it: the same name with labels and idx1 in it."""
    lengths = _axes(file)
    if len(lengths) == 1:
        raise DataError(f"{file}: holds labels, not images; point data.source at the images file")
    if "images" not in file.name:
        raise DataError(f"{file}: no 'images' in its name, from which that of its labels file would follow; "
                        "rename both, as in train-images-idx3-ubyte and train-labels-idx1-ubyte")
    plain = file.name.removesuffix(".gz").replace("images", "labels")
    plain = plain.replace("idx3", "idx1").replace("idx4", "idx1")
    beside = [file.with_name(name) for name in (plain, f"{plain}.gz")]
    labels = next((other for other in beside if other.is_file()), None)
    if labels is None:
        raise DataError(f"{file}: its labels file {plain}[.gz] is not beside it; put it there")
    pair = _pair(file, labels, {file: lengths, labels: _axes(labels)})
    return _open_pairs([pair], f"IDX file {file.name}", wanted)


def _pair(images: Path, labels: Path, axes: dict[Path, tuple[int, ...]]) -> _Pair:
    if len(axes[labels]) != 1:
        raise DataError(f"{labels}: holds images where labels were expected; put the labels file there")
    (count, *size), (labelled,) = axes[images], axes[labels]
    if count != labelled:
        raise DataError(f"{labels}: {labelled:,} labels for the {count:,} images of {images.name}; "
                        "use files of the same set")
    if count == 0:
        raise DataError(f"{images}: holds no images; {_AGAIN}")
    height, width, channels = size if len(size) == 3 else (*size, 1)
    if channels not in (1, 3) or height == 0 or width == 0:
        raise DataError(f"{images}: images of {height} × {width} with {channels} channels; there must be "
                        "pixels, and 1 or 3 channels: convert them")
    return _Pair(images, labels, (count, height, width, channels))


def _open_pairs(pairs: Sequence[_Pair], source: str, wanted: Wanted) -> Source:
    first = pairs[0]
    for pair in pairs:
        if pair.shape[1:] != first.shape[1:]:
            raise DataError(f"{pair.images}: images of shape {pair.shape[1:]}, those of {first.images.name} "
                            f"have {first.shape[1:]}; use files of the same set")
    parts = [Part(_labels(pair), pair.labels) for pair in pairs]
    labels, class_names, test_from = joined(parts[:1], parts[1:])
    files = [file for pair in pairs for file in (pair.images, pair.labels)]
    return Source(first.images, wanted.shape(first.shape[1:]), labels, class_names, source, digest(files), test_from,
                  lambda: consecutive(wanted.made_all(images) for pair in pairs for images in _images(pair)))


def _open(file: Path) -> io.BufferedIOBase:
    with file.open("rb") as stream:
        zipped = stream.read(2) == GZIP
    return gzip.open(file, "rb") if zipped else file.open("rb")


def _axes(file: Path) -> tuple[int, ...]:
    """The lengths of the axes: (n,) for labels, (n, h, w) or (n, h, w, c) for images."""
    with _open(file) as stream:
        magic = _read_exactly(stream, 4, file)
        if magic[:3] != UNSIGNED_BYTES or magic[3] not in (1, 3, 4):
            raise DataError(f"{file}: magic number 0x{magic.hex()} is not that of IDX images (0x00000803, "
                            f"0x00000804) or labels (0x00000801) of unsigned bytes; {_AGAIN} or convert it")
        return struct.unpack(f">{magic[3]}I", _read_exactly(stream, 4 * magic[3], file))


def _read_exactly(stream: io.BufferedIOBase, count: int, file: Path) -> bytes:
    try:
        found = stream.read(count)
    except (EOFError, OSError, zlib.error) as error:
        raise _broken(file, error) from error
    if len(found) < count:
        raise DataError(f"{file}: ends within its header; {_AGAIN}")
    return found


def _labels(pair: _Pair) -> UInt8[np.ndarray, " n"]:
    return np.concatenate(list(_contents(pair.labels, 1, pair.shape[0])))[:, 0]


def _images(pair: _Pair) -> Iterator[UInt8[np.ndarray, "b h w c"]]:
    for rows in _contents(pair.images, math.prod(pair.shape[1:]), pair.shape[0]):
        yield rows.reshape(-1, *pair.shape[1:])


def _contents(file: Path, width: int, count: int) -> Iterator[UInt8[np.ndarray, "b width"]]:
    """The bytes after the header, which must be `count` rows of `width`, about a MiB at a time.

    Reading to the end of a gzip file also checks its CRC-32.
    """
    done, total, at_once = 0, count * width, max(1, _AT_ONCE // width) * width
    try:
        with _open(file) as stream:
            axes = stream.read(4)[3]
            stream.seek(4 + 4 * axes)
            while done < total:
                content = stream.read(min(at_once, total - done))
                done += len(content)
                if len(content) % width or not content:
                    raise DataError(f"{file}: ends after {done:,} of {total:,} bytes; {_AGAIN}")
                yield np.frombuffer(content, np.uint8).reshape(-1, width)
            if stream.read(1):
                raise DataError(f"{file}: goes on after the {total:,} bytes its header announces; {_AGAIN}")
    except (EOFError, OSError, zlib.error) as error:
        raise _broken(file, error) from error
    except (MemoryError, OverflowError):
        raise DataError(f"{file}: no memory for rows of {width:,} bytes, as its header announces them; {_AGAIN}"
                        ) from None


def _broken(file: Path, error: Exception) -> DataError:
    return DataError(f"{file}: truncated or damaged ({error}); {_AGAIN}")
