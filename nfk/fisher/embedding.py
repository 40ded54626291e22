"""Embeddings e(x) = W^T V_x in R^k, at the price of one gradient per image."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nfk.checkpoint import Checkpoint
from nfk.devices import everywhere, local_mesh
from nfk.linalg.panels import READ_BYTES, panel_image_pass
from nfk.linalg.rows import Progress, RowBlocks, image_pass, silent
from nfk.linalg.tall import Tall

WORKING = 4
"""Times its own bytes that a block of rows takes while it is computed"""

Scaling = Literal["none", "whitened", "unit"]


def embed(
    vectors: RowBlocks,
    right: Float[Array, "p k"] | Tall,
    *,
    memory_bytes: int = 4 * 2**30,
    checkpoint: Checkpoint | None = None,
    progress: Progress = silent,
) -> Float[np.ndarray, "n k"]:
    """W^T V_x for every row of `vectors`; for the rows that W was made from it is U diag(s).

    Cost: one pass (one gradient per image) and 2 n p k flops. Memory: one block and the result. A W that is read by
    rows (`nfk.linalg.tall`, Zarr's arrays) streams by groups of images instead, as large as `memory_bytes` hold: it is
    read once for each of them.
    """
    if isinstance(right, jax.Array):
        held = everywhere(local_mesh(), right)
        return image_pass(vectors, held, checkpoint=checkpoint, label="embeddings", progress=progress)
    itemsize, read = np.dtype(right.dtype).itemsize, min(READ_BYTES, memory_bytes // 16)
    return panel_image_pass(vectors, right, resident_rows=resident_rows(vectors, itemsize, memory_bytes - 2 * read),
                            read_rows=max(1, read // (right.shape[1] * itemsize)), checkpoint=checkpoint,
                            label="embeddings", progress=progress)


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
    fitted: int,
) -> Float[np.ndarray, "n k"]:
    """`none`: as it is. `whitened`: divided by s / sqrt(n), n = `fitted` examples, so that each component has
    unit mean square on those. `unit`: each row divided by its length (a zero row stays zero)."""
    if scaling == "none":
        return embedding
    if scaling == "whitened":
        spread = singular_values / np.sqrt(fitted)
        return (embedding / spread[None, :]).astype(embedding.dtype)
    lengths = np.linalg.norm(embedding, axis=1, keepdims=True)
    return (embedding / np.where(lengths > 0, lengths, 1)).astype(embedding.dtype)
