"""Parquet in the Hugging Face layout: encoded image files in one column, class numbers in another.

The image column is called `image` or `img` and is a struct with a binary field `bytes`; the column `label`
holds integers. Class names are read from the schema's metadata key `huggingface`
(`{"info": {"features": {"label": {"names": [...]}}}}`), where there is one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Integer, UInt8

from nfk.data import classes
from nfk.data.decode import decode
from nfk.data.digest import digest
from nfk.data.image_set import DataError, ImageSet
from nfk.data.memory import empty_images
from nfk.data.parts import official_parts

IMAGE_COLUMNS = ("image", "img")
_BATCH = 2048  # rows held encoded at once, and between two reports of progress
_SLICE = 128  # rows decoded by a thread before it takes the next
_THREADS = min(8, os.cpu_count() or 1)


class _File(NamedTuple):
    path: Path
    image_column: str
    class_names: tuple[str, ...] | None
    labels: Integer[np.ndarray, " n"]


def read_folder(folder: Path, files: Sequence[Path],
                progress: Callable[[int, int], None] | None = None) -> ImageSet:
    """The set held by the Parquet `files` (shards) of `folder`, divided into train and test by name."""
    train, test = official_parts(files)
    return _read(train, test, f"Parquet files of {folder.resolve().name}", progress)


def read_file(file: Path, progress: Callable[[int, int], None] | None = None) -> ImageSet:
    """The set held by one Parquet file, undivided."""
    return _read((file,), (), f"Parquet file {file.name}", progress)


def _read(train: Sequence[Path], test: Sequence[Path], source: str,
          progress: Callable[[int, int], None] | None) -> ImageSet:
    """Labels of all files first, which is quick, then the images, decoded by a pool of threads.

    Memory: the decoded images once, and 2,048 encoded ones.
    """
    files = [_inspect(path) for path in (*train, *test)]
    labels = np.concatenate([file.labels for file in files])
    train_count = sum(len(file.labels) for file in files[:len(train)])
    if train_count == 0 or (test and train_count == len(labels)):
        raise DataError(f"{(test if train_count else train)[0]}: holds no rows; fetch the file again")
    class_names = files[0].class_names or classes.numbered(labels[:train_count], files[0].path)
    for file in files:
        if file.class_names != files[0].class_names:
            raise DataError(f"{file.path}: its class names differ from those of {files[0].path.name}; "
                            "use files of the same set")
        classes.check(file.labels, class_names, file.path)

    images, done = None, 0
    with ThreadPoolExecutor(_THREADS) as pool:
        for file in files:
            for row, encoded in _batches(file):
                if images is None:
                    first = decode(encoded[0], file=file.path, row=row)
                    images = empty_images((len(labels), *first.shape), file.path)
                _decode_all(encoded, images[done:done + len(encoded)], file.path, row, pool)
                done += len(encoded)
                if progress is not None:
                    progress(done, len(labels))
    return ImageSet(images=images, labels=labels.astype(np.int32), class_names=class_names, source=source,
                    digest=digest([file.path for file in files]), test_from=train_count if test else None)


def _decode_all(encoded: Sequence[bytes | None], out: UInt8[np.ndarray, "b h w c"], file: Path,
                first_row: int, pool: ThreadPoolExecutor) -> None:
    """Decode `encoded` into `out`; the first faulty row in order is the one reported."""
    def decode_from(start: int) -> None:
        for index in range(start, min(start + _SLICE, len(encoded))):
            out[index] = decode(encoded[index], file=file, row=first_row + index, shape=out.shape[1:])

    for _ in pool.map(decode_from, range(0, len(encoded), _SLICE)):
        pass  # taking the result raises what the thread raised


def _inspect(path: Path) -> _File:
    """Columns, class names and labels of one file; the image bytes stay on disk."""
    with _opened(path) as file:
        schema = file.schema_arrow
        columns = ", ".join(schema.names) or "none"
        image = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
        if image is None:
            raise DataError(f"{path}: no column {' or '.join(map(repr, IMAGE_COLUMNS))} (columns: {columns})"
                            "; rename the column of images")
        if not _holds_bytes(schema.field(image).type):
            raise DataError(f"{path}: column {image!r} is {schema.field(image).type}, must be a struct with "
                            "a binary field 'bytes', the encoded image file; convert it")
        if "label" not in schema.names:
            raise DataError(f"{path}: no column 'label' (columns: {columns}); rename the column of class "
                            "numbers")
        if not pa.types.is_integer(schema.field("label").type):
            raise DataError(f"{path}: column 'label' is {schema.field('label').type}, must be an integer, "
                            "the number of the class from 0; convert it")
        labels = file.read(columns=["label"]).column("label")
        if labels.null_count:
            row = labels.is_null().to_numpy().argmax()
            raise DataError(f"{path}: row {row}: has no label; add it or drop the row")
        return _File(path, image, _class_names(schema.metadata or {}, path), labels.to_numpy())


def _holds_bytes(column: pa.DataType) -> bool:
    if not pa.types.is_struct(column) or column.get_field_index("bytes") < 0:
        return False
    held = column.field("bytes").type
    return pa.types.is_binary(held) or pa.types.is_large_binary(held)


def _class_names(metadata: dict[bytes, bytes], path: Path) -> tuple[str, ...] | None:
    """The names that the Hugging Face metadata gives to the labels; None without such metadata."""
    if b"huggingface" not in metadata:
        return None
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    except (ValueError, LookupError, TypeError):
        names = None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: metadata key 'huggingface' has no class names at "
                        "info.features.label.names; write them there, or remove the key to have "
                        "them numbered")
    return tuple(names)


def _batches(file: _File) -> Iterator[tuple[int, list[bytes | None]]]:
    """The encoded images in order, with the row at which each batch starts."""
    row = 0
    with _opened(file.path) as parquet:
        for batch in parquet.iter_batches(_BATCH, columns=[f"{file.image_column}.bytes"]):
            encoded = batch.column(0).field("bytes").to_pylist()
            yield row, encoded
            row += len(encoded)


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """The file, its page checksums verified where it has them; any fault of it in one line."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not a whole Parquet file ({reason}); fetch it again") from error
