"""Truncated SVD of V through its p x p matrix C = V^T V: one pass for any n, for networks of few parameters.

C is summed in float64 over blocks of rows, its lower half alone; its leading eigenpairs come from LAPACK where p is
small, from ARPACK's Lanczos iteration where it is not.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from scipy.linalg import blas
from scipy.sparse.linalg import LinearOperator, eigsh

from nfk.linalg.factors import Factors, RankError, numerical_rank, with_positive_peaks
from nfk.linalg.rows import Progress, RowBlocks, block_bounds, block_count, silent

_DENSE = 1000
"""p up to which all of C's eigenvectors are cheap"""


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
    squares, right = _leading(gram, rank)
    squared_norm, count = float(np.trace(gram)), numerical_rank(squares, eps, max(n, p))
    if count == 0:
        raise RankError("every row of the matrix is zero: no score differs from the mean score")
    values, right = np.sqrt(squares[:count]), right[:, :count]
    # V^T u_i - s_i w_i = (C w_i - s_i^2 w_i) / s_i
    rest = blas.dsymm(1.0, gram, np.asfortranarray(right), lower=1) - right * squares[None, :count]
    residuals = (np.linalg.norm(rest, axis=0) / values + eps * values) / values[0]
    left, turn = np.empty((n, count), block.dtype), right / values[None, :]
    for index in range(block_count(rows)):
        start, stop = block_bounds(rows, index)
        left[start:stop] = np.asarray(rows.block(index), np.float64) @ turn
        progress(stop, n, "left factor")
    flipped = with_positive_peaks(left, jnp.asarray(right, block.dtype))
    return Factors(values, *flipped, residuals, squared_norm, 2, np.zeros(count))


def _leading(gram: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """The `rank` largest eigenvalues, descending, and their vectors."""
    p = len(gram)
    if p <= max(_DENSE, 4 * rank) or not gram.any():
        squares, vectors = scipy.linalg.eigh(gram, lower=True, subset_by_index=(p - rank, p - 1))
    else:  # a fixed start: equal matrices, equal bits
        start = np.random.default_rng(0).standard_normal(p)
        whole = LinearOperator((p, p), matvec=lambda x: blas.dsymv(1.0, gram, x, lower=1), dtype=gram.dtype)
        squares, vectors = eigsh(whole, rank, which="LA", v0=start)
    order = np.argsort(squares)[::-1]
    return squares[order], vectors[:, order]
