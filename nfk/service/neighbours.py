"""The nearest of a kept set of embeddings, by Euclidean distance, exactly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from nfk import names, store
from nfk.embedder import Embedder
from nfk.one_line import OneLine
from nfk.stages.images import SPLITS


class IndexFault(OneLine):
    """Embeddings that cannot be searched with this embedder; one line."""


class Neighbour(NamedTuple):
    id: str
    distance: float


class Neighbours:
    """scikit-learn's exact search over rows of k numbers: 2 n k flops a query, and 4 n k bytes."""

    def __init__(self, path: Path, ids: list[str], rows: Float[np.ndarray, "n k"]) -> None:
        from sklearn.neighbors import NearestNeighbors

        self.path, self._ids = path, ids
        self._search = NearestNeighbors(algorithm="brute").fit(rows)

    def __len__(self) -> int:
        return len(self._ids)

    def nearest(self, vectors: Float[np.ndarray, "m k"], count: int) -> list[list[Neighbour]]:
        """The `count` nearest of each vector, or all where there are fewer, nearest first."""
        distances, places = self._search.kneighbors(vectors, n_neighbors=min(count, len(self)))
        return [[Neighbour(self._ids[place], float(distance)) for place, distance in zip(*row, strict=True)]
                for row in zip(places.tolist(), distances.tolist(), strict=True)]


def read(path: Path, embedder: Embedder) -> Neighbours:
    """What `nfk embed` wrote: a .parquet or .zarr of a registered embedder's, or a family's embeddings/F.zarr, whose
    ids are then the images' files, or SPLIT/ROW by the row in the data's source where they have none of their own.

    IndexFault or StoreError where they were made by another embedder than this (by its digests), are not finite or are
    none; a store's every byte is held against its digest.
    """
    if not path.exists():
        raise IndexFault(f"--index {path}: no such file; `nfk embed --model REFERENCE IMAGES --to {path}` makes one")
    ids, rows, made_from = _parquet(path) if path.suffix == ".parquet" else _zarr(path, embedder)
    for name, digest in embedder.inputs.items():
        found = made_from.get(name)
        if found != digest:
            made = f"was made with {name} {found[:12]}" if found else f"does not say which {name} it was made with"
            raise IndexFault(f"--index {path} {made}, the embedder's {name} is {digest[:12]}: their vectors cannot be "
                             "compared; embed the images again with this embedder")
    if (rows.dtype.kind != "f" or rows.ndim != 2 or rows.shape[1:] != (embedder.rank,) or len(rows) != len(ids)
            or len(rows) == 0):
        raise IndexFault(f"--index {path}: {len(ids):,} ids and a {rows.dtype} array of shape {rows.shape}; must be n "
                         f"ids and n vectors of {embedder.rank} floats, the embedder's rank")
    if not np.isfinite(rows).all():
        raise IndexFault(f"--index {path}: vector {int(np.argmin(np.isfinite(rows).all(axis=1)))} is not finite; "
                         "embed the images again")
    return Neighbours(path, ids, rows)


def _parquet(path: Path) -> tuple[list[str], np.ndarray, Mapping[str, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["id", "embedding"], memory_map=True)
        column = table["embedding"].combine_chunks()
        if not pa.types.is_fixed_size_list(column.type) or column.null_count:
            raise IndexFault(f"--index {path}: the column embedding must be lists of one length, none missing")
        rows = np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(
            len(table), column.type.list_size)
        ids = [str(name) for name in table["id"].to_pylist()]
    except IndexFault:
        raise
    except (pa.ArrowException, KeyError, OSError, ValueError) as error:
        raise IndexFault(f"--index {path}: no Parquet of the columns id and embedding "
                         f"({' '.join(str(error).split())[:120]})") from None
    kept = {key.decode("utf-8", "replace"): value.decode("utf-8", "replace")
            for key, value in (table.schema.metadata or {}).items()}
    return (ids, rows,
            {key.removeprefix("digest."): value for key, value in kept.items() if key.startswith("digest.")})


def _zarr(path: Path, embedder: Embedder) -> tuple[list[str], np.ndarray, Mapping[str, str]]:
    found = store.read(path)
    try:
        return *_ids_and_rows(path, found, embedder), found.inputs
    except OneLine:
        raise
    except (KeyError, TypeError, ValueError) as error:  # whole, and another's: what it should hold is not there
        raise IndexFault(f"--index {path}: its embeddings are not as `nfk embed` writes them ({type(error).__name__}: "
                         f"{error}); embed the images again") from None


def _ids_and_rows(path: Path, found: store.Store, embedder: Embedder) -> tuple[list[str], np.ndarray]:
    if "embedding" in found.arrays:
        return [str(name) for name in found.attributes["ids"]], np.asarray(found["embedding"])
    if not all(name in found.arrays for split in SPLITS for name in (split, f"{split}_id")):
        raise IndexFault(f"--index {path}: holds {', '.join(found.arrays)}, no embeddings; give what `nfk embed` wrote")
    if found.attributes["scaling"] != embedder.settings["scaling"]:
        raise IndexFault(f"--index {path}: scaled {json.dumps(found.attributes['scaling'])}, the embedder "
                         f"{json.dumps(embedder.settings['scaling'])}; embed the images again")
    ids = [name for split in SPLITS for name in names.read(found, f"{split}_file")
           or (f"{split}/{row}" for row in found[f"{split}_id"][:].tolist())]
    return ids, np.concatenate([np.asarray(found[split]) for split in SPLITS])
