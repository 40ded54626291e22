"""The Neural Fisher Kernel itself, K(x, z) = <V_x, V_z>, for sets small enough to hold it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nfk.linalg.rows import Progress, RowBlocks, StoredRows, block_bounds, block_count, silent


def kernel_matrices(
    fitted: RowBlocks, *others: RowBlocks, progress: Progress = silent
) -> list[Float[np.ndarray, "_ n"]]:
    """K between each set (the first one too) and the n rows of `fitted`, in V's precision.

    Cost: one gradient per example and 2 m n p flops for m examples in all. Memory: V of `fitted`, n p numbers,
    and the results.
    """
    held = StoredRows(fitted)
    total, done, matrices = sum(rows.shape[0] for rows in (fitted, *others)), 0, []
    for rows in (held, *others):
        matrix = np.empty((rows.shape[0], fitted.shape[0]), rows.block(0).dtype)
        for index in range(block_count(rows)):
            start, stop = block_bounds(rows, index)
            block = rows.block(index)
            for other in range(block_count(held)):
                matrix[start:stop, slice(*block_bounds(held, other))] = _inner(block, held.block(other))
            done += stop - start
            progress(done, total, "kernel")
        matrices.append(matrix)
    return matrices


@jax.jit
def _inner(a: Float[Array, "b p"], b: Float[Array, "c p"]) -> Float[Array, "b c"]:
    return jnp.matmul(a, b.T, precision="highest")
