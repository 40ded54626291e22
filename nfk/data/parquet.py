"""Parquet in the Hugging Face layout: encoded image files in one column, class numbers in another.

The image column is called `image` or `img` and is a struct with a binary field `bytes`; the column `label`
holds integers. Class names are read from the schema's metadata key `huggingface`
(`{"info": {"features": {"label": {"names": [...]}}}}`), where there is one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Integer, UInt8

from nfk.data.decode import Wanted, decode, decoder
from nfk.data.digest import digest
from nfk.data.image_set import DataError
from nfk.data.source import Part, Source, consecutive, joined

IMAGE_COLUMNS = ("image", "img")
_BATCH = 2048  # rows in a block, fewer of large images
_BLOCK_BYTES = 32 << 20


class _File(NamedTuple):
    path: Path
    image_column: str
    class_names: tuple[str, ...] | None
    labels: Integer[np.ndarray, " n"]


def open_files(train: Sequence[Path], test: Sequence[Path], source: str, wanted: Wanted) -> Source:
    """The set held by Parquet files (shards), those of the train part first.

    Labels of all files first, which is quick; the images are decoded by a pool of threads when read. Memory: two
    blocks, each of 2,048 images or 32 MiB.
    """
    files = [_inspect(path) for path in (*train, *test)]
    for file in files:
        if file.class_names != files[0].class_names:
            raise DataError(f"{file.path}: its class names differ from those of {files[0].path.name}; "
                            "use files of the same set")
    parts = [Part(file.labels, file.path) for file in files]
    labels, class_names, test_from = joined(parts[:len(train)], parts[len(train):], files[0].class_names)
    first = next(_batches(files, 1), None)
    if first is None:  # a damaged file: there are labels
        raise DataError(f"{files[0].path}: {len(labels):,} labels and no image; fetch it again")
    row, path, encoded = first
    shape = decode(encoded[0], where=f"{path}: row {row}", wanted=wanted).shape

    at_once = max(1, min(_BATCH, _BLOCK_BYTES // math.prod(shape)))

    def arrays() -> Iterator[UInt8[np.ndarray, "b h w c"]]:
        with decoder(wanted, shape) as decoded:
            for row, path, encoded in _batches(files, at_once):
                yield decoded(encoded, [f"{path}: row {row + place}" for place in range(len(encoded))])

    return Source(files[0].path, shape, labels, class_names, source, digest([file.path for file in files]), test_from,
                  lambda: consecutive(arrays()))


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


def _batches(files: Sequence[_File], at_once: int) -> Iterator[tuple[int, Path, list[bytes | None]]]:
    """The encoded images in order, with the row of the file at which each batch starts."""
    for file in files:
        row = 0
        with _opened(file.path) as parquet:
            for batch in parquet.iter_batches(at_once, columns=[f"{file.image_column}.bytes"]):
                encoded = batch.column(0).field("bytes").to_pylist()
                yield row, file.path, encoded
                row += len(encoded)


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """The file, its page checksums verified where it has them; any fault of it in one line."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last: a column's name
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not a whole Parquet file ({reason}); fetch it again") from error
