"""The leading eigenpairs of a symmetric matrix in memory."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from jaxtyping import Float
from scipy.sparse.linalg import eigsh

from nfk.linalg.blas import threads_for_eigenproblem

_SMALL, _LARGE = 1000, 4096


def dense(size: int, rank: int) -> bool:
    """Whether LAPACK, at some 9 size^3 flops, is to find `rank` eigenpairs; else ARPACK's Lanczos iteration, at some
    20 products with the matrix for each: quicker for few pairs of a large matrix."""
    return size <= _SMALL or size < 4 * rank or (size <= _LARGE and size < 32 * rank)


def leading_eigenpairs(
    matrix: Float[np.ndarray, "m m"], rank: int
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "m k"]]:
    """The `rank` largest eigenvalues, descending, and their vectors, to float64's round-off."""
    size = len(matrix)
    if dense(size, rank) or not matrix.any():
        with threads_for_eigenproblem(size):
            squares, vectors = scipy.linalg.eigh(matrix, subset_by_index=(size - rank, size - 1))
    else:  # a fixed start: equal matrices, equal bits
        squares, vectors = eigsh(matrix, rank, which="LA", v0=np.random.default_rng(0).standard_normal(size))
    order = np.argsort(squares)[::-1]
    return squares[order], vectors[:, order]


def mirror(matrix: Float[np.ndarray, "m m"], rows: int = 1024) -> None:
    """Fill the upper half from the lower, in place."""
    for start in range(0, len(matrix), rows):
        stop = start + rows
        corner = matrix[start:stop, start:stop]
        corner[:] = np.tril(corner) + np.tril(corner, -1).T
        matrix[start:stop, stop:] = matrix[stop:, start:stop].T
