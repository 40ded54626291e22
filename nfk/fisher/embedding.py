"""Embeddings e(x) = W^T V_x in R^k, at the price of one gradient per image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nfk.checkpoint import RowCheckpoint, RowFile
from nfk.devices import everywhere, local_mesh
from nfk.fisher.scores import check_image
from nfk.linalg.panels import READ_BYTES, panel_image_blocks
from nfk.linalg.rows import ImageBlocks, Progress, RowBlocks, image_blocks, in_file, in_memory, silent
from nfk.linalg.tall import Tall

WORKING = 4
"""Times its own bytes that a block of rows takes while it is computed"""

_LABEL = "embeddings"

Scaling = Literal["none", "whitened", "unit"]


def embed(
    vectors: RowBlocks, right: Float[Array, "p k"] | Tall, *, memory_bytes: int = 4 * 2**30, progress: Progress = silent
) -> Float[np.ndarray, "n k"]:
    """W^T V_x for every row of `vectors`; for the rows that W was made from it is U diag(s).

    Cost: one pass (one gradient per image) and 2 n p k flops. Memory: one block and the result. A W that is read by
    rows (`nfk.linalg.tall`, Zarr's arrays) streams by groups of images instead, as large as `memory_bytes` hold: it is
    read once for each of them.
    """
    return in_memory(vectors, right, _blocks(vectors, right, memory_bytes, progress)(0))


def embed_to_file(
    vectors: RowBlocks, right: Float[Array, "p k"] | Tall, checkpoint: RowCheckpoint, *,
    memory_bytes: int = 4 * 2**30, progress: Progress = silent,
) -> RowFile:
    """`embed` into the checkpoint's file: for more images than the memory has room for, and resumed from there."""
    return in_file(vectors, right, _blocks(vectors, right, memory_bytes, progress), checkpoint)


def _blocks(
    vectors: RowBlocks, right: Float[Array, "p k"] | Tall, memory_bytes: int, progress: Progress
) -> Callable[[int], ImageBlocks]:
    """What makes the embeddings from a given block on."""
    if isinstance(right, jax.Array):
        held = everywhere(local_mesh(), right)
        return lambda first: image_blocks(vectors, held, first, progress, _LABEL)
    itemsize, read = np.dtype(right.dtype).itemsize, min(READ_BYTES, memory_bytes // 16)
    resident = resident_rows(vectors, itemsize, memory_bytes - 2 * read)
    read_rows = max(1, read // (right.shape[1] * itemsize))
    return lambda first: _finite(panel_image_blocks(vectors, right, first, progress, _LABEL, resident_rows=resident,
                                                    read_rows=read_rows))


def _finite(blocks: ImageBlocks) -> ImageBlocks:
    """The blocks; ScoreError where one holds what is no number. A right factor in memory needs no such look: the scores
    take it."""
    for after, start, block in blocks:
        check_image(block, start)
        yield after, start, block


def held_or_read(right: Tall, memory_bytes: int) -> Float[Array, "p k"] | Tall:
    """W in memory where it fits there twice, as it is read and on the device; else as it is, to be read by rows."""
    whole = 2 * right.shape[0] * right.shape[1] * np.dtype(right.dtype).itemsize <= memory_bytes
    return jnp.asarray(right[:]) if whole else right


def resident_rows(vectors: RowBlocks, itemsize: int, memory_bytes: int) -> int:
    """Rows to hold while W streams by: what the memory leaves beside a block that is computed, in whole blocks, at
    least one."""
    (n, p), block = vectors.shape, vectors.block_rows
    taken = WORKING * min(block, n) * p * itemsize
    return max(1, max(0, memory_bytes - taken) // (p * itemsize) // block) * block


def scale(
    embedding: Float[np.ndarray, "n k"], scaling: Scaling, *, singular_values: Float[np.ndarray, " k"],
    fitted: int, first: int = 0,
) -> Float[np.ndarray, "n k"]:
    """`none`: as it is. `whitened`: divided by s / sqrt(n), n = `fitted` examples, so that each component has
    unit mean square on those. `unit`: each row divided by its length (a zero row stays zero). ScoreError naming the
    example, the first row is the `first`, where a number divided leaves the precision."""
    if scaling == "none":
        return embedding
    if scaling == "whitened":
        spread = singular_values / np.sqrt(fitted)
        with np.errstate(over="ignore"):
            scaled = (embedding / spread[None, :]).astype(embedding.dtype)
        check_image(scaled, first)
        return scaled
    largest = np.abs(embedding).max(axis=1, keepdims=True)  # whose square may leave the precision
    even = embedding / np.where(largest > 0, largest, 1)
    lengths = np.linalg.norm(even, axis=1, keepdims=True)
    return (even / np.where(lengths > 0, lengths, 1)).astype(embedding.dtype)
