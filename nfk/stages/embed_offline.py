"""`nfk embed --model REFERENCE PATH`: a registered embedder on images of anyone's, to Zarr or Parquet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float

from nfk import durable, store
from nfk.data.decode import AS_IT_IS, Wanted
from nfk.data.image_set import DataError
from nfk.data.read import open_source
from nfk.params import Params
from nfk.progress import progress
from nfk.stages.images import unit
from nfk.stages.registered import opened

_FORMATS = (".zarr", ".parquet")


def run(params: Params, reference: str, images: Path, to: Path, *, resize: bool = False) -> str:
    """Embed a folder of image files, or any source `data.source` may be, with the embedder `reference` names.

    Writes one row an image, in the order of the source or of the files' names: `id` (the file's name, or the row in
    the source) and the vector. The store says which embedder version, by which digests, made it. `resize` brings images
    to the size and channels of the network's own. One line for people.
    """
    if to.suffix not in _FORMATS:
        raise DataError(f"--to {to}: must end in {' or '.join(_FORMATS)}")
    with opened(params, reference, params.svd.memory_gib) as found:
        embedder, name = found.embedder, found.reference
        height, width, channels = embedder.image_shape
        own = Wanted((height, width), "grey" if channels == 1 else "colour")
        pixels, ids = _images(images, own if resize else AS_IT_IS)
        with progress(f"embed ({name})") as report:
            vectors = embedder(unit(pixels), progress=report)
    _write(to, vectors, ids, dict(embedder.inputs), name)
    return f"{len(vectors):,} images x {embedder.rank} by {name} -> {to}"


def _images(path: Path, wanted: Wanted) -> tuple[np.ndarray, list[str]]:
    source = open_source(str(path), wanted)
    return source.load().images, list(source.names or map(str, range(len(source))))


def _write(
    to: Path, vectors: Float[np.ndarray, "n k"], ids: list[str], inputs: dict[str, str], reference: str
) -> None:
    if to.suffix == ".zarr":
        with store.write(to, inputs=inputs) as writer:
            writer.put("embedding", vectors)
            writer.attributes.update(embedder=reference, ids=ids)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1), pa.float32()), vectors.shape[1])
    table = pa.table({"id": pa.array(ids), "embedding": column}).replace_schema_metadata(
        {"embedder": reference, **{f"digest.{name}": digest for name, digest in inputs.items()}})
    file = pa.BufferOutputStream()
    pq.write_table(table, file)
    durable.write_whole(to, file.getvalue())
