"""Embeddings e(x) = W^T V_x in R^k, at the price of one gradient per image."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Array, Float

from nfk.checkpoint import Checkpoint
from nfk.linalg.rows import Progress, RowBlocks, image_pass, silent

Scaling = Literal["none", "whitened", "unit"]


def embed(
    vectors: RowBlocks,
    right: Float[Array, "p k"],
    *,
    checkpoint: Checkpoint | None = None,
    progress: Progress = silent,
) -> Float[np.ndarray, "n k"]:
    """W^T V_x for every row of `vectors`; for the rows that W was made from it is U diag(s).

    Cost: one pass (one gradient per image) and 2 n p k flops. Memory: one block and the result.
    """
    return image_pass(vectors, right, checkpoint=checkpoint, label="embeddings", progress=progress)


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
