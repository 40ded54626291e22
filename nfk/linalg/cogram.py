"""Truncated SVD of V through its p x p matrix C = V^T V: one pass for any n, for networks of few parameters.

C is summed in float64 over blocks of rows, its lower half alone.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from scipy.linalg import blas

from nfk.linalg.eigen import leading_eigenpairs, mirror
from nfk.linalg.factors import Factors, RankError, numerical_rank, with_positive_peaks
from nfk.linalg.rows import Progress, RowBlocks, block_bounds, block_count, silent


def cogram_svd(rows: RowBlocks, *, rank: int, progress: Progress = silent) -> Factors:
    """The leading `rank` modes of V from the eigenvectors of C: C = W diag(s^2) W^T, U = V W diag(1 / s).

    Cost: two passes, n p^2 + 2 n p k flops in float64, and the eigenvectors. Memory: C, 8 p^2 bytes (three times
    that for p <= 1000), and one block. Returns fewer than `rank` modes where V has no more. Raises RankError if rank
    exceeds min(n, p) or V is zero.
    """
    n, p = rows.shape
    if not 1 <= rank <= min(n, p):
        raise RankError(f"rank={rank} is not in 1..min(n, p)={min(n, p)}; lower it (svd.rank)")
    gram = np.zeros((p, p), order="F")
    for index in range(block_count(rows)):
        block = rows.block(index)
        columns = np.asarray(block, np.float64).T
        gram = blas.dsyrk(1.0, columns, beta=1.0, c=gram, lower=1, overwrite_c=1)
        progress(block_bounds(rows, index)[1], n, "p x p matrix")
    eps = float(jnp.finfo(block.dtype).eps)
    mirror(gram)
    squares, right = leading_eigenpairs(gram, rank)
    squared_norm, count = float(np.trace(gram)), numerical_rank(squares, eps, max(n, p))
    if count == 0:
        raise RankError("every row of the matrix is zero: no score differs from the mean score")
    values, right = np.sqrt(squares[:count]), right[:, :count]
    # V^T u_i - s_i w_i = (C w_i - s_i^2 w_i) / s_i
    rest = gram @ right - right * squares[None, :count]
    residuals = (np.linalg.norm(rest, axis=0) / values + eps * values) / values[0]
    left, turn = np.empty((n, count), block.dtype), right / values[None, :]
    for index in range(block_count(rows)):
        start, stop = block_bounds(rows, index)
        left[start:stop] = np.asarray(rows.block(index), np.float64) @ turn
        progress(stop, n, "left factor")
    flipped = with_positive_peaks(left, jnp.asarray(right, block.dtype))
    return Factors(values, *flipped, residuals, squared_norm, 2, np.zeros(count))
