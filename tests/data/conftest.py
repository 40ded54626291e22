"""Writers of small image sets in each format, right or wrong as a test asks."""

from __future__ import annotations

import gzip
import io
import json
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


def idx_bytes(array: np.ndarray) -> bytes:
    """The definition, written again: magic, axes, bytes."""
    return struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def encode(pixels: np.ndarray, kind: str = "PNG", mode: str | None = None, **options) -> bytes:
    """One image file of (h, w, c) pixels, converted to `mode` where one is given."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def encoded():
    return encode


@pytest.fixture
def pixels():
    """pixels(count, h, w, c): distinct random images."""
    rng = np.random.default_rng(0)
    return lambda count, height=6, width=5, channels=1: rng.integers(
        0, 256, (count, height, width, channels), dtype=np.uint8)


@pytest.fixture
def write_idx(tmp_path):
    """write_idx(name, array): an IDX file, gzip where the name ends so."""
    def write(name: str, array, folder: Path = tmp_path) -> Path:
        content = idx_bytes(np.asarray(array, np.uint8))
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return folder / name
    return write


@pytest.fixture
def write_parquet(tmp_path):
    """write_parquet(name, images, labels, names): a Parquet file in the Hugging Face layout.

    `images` are pixels, bytes put there as they are, or None; `names` the class names, None for no metadata.
    """
    def write(name: str, images, labels, names=("cat", "dog", "eel"), *, column="image",
              label_type="int64") -> Path:
        rows = [{"bytes": encode(image) if isinstance(image, np.ndarray) else image, "path": f"{row}.png"}
                for row, image in enumerate(images)]
        layout = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        table = pa.table({column: pa.array(rows, layout), "label": pa.array(labels, label_type)})
        if names is not None:
            features = {column: {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
            metadata = {"huggingface": json.dumps({"info": {"features": features}})}
            table = table.replace_schema_metadata(metadata)
        pq.write_table(table, tmp_path / name)
        return tmp_path / name
    return write
