"""Orthonormal columns for tall matrices, by products only: one r x r eigenproblem instead of a tall QR.

SVQB (Stathopoulos and Wu, SIAM J. Sci. Comput. 23, 2002): with G = R^T R = E diag(d) E^T in float64,
Q = R E diag(d)^(-1/2). Unlike Cholesky it meets rank deficiency by dropping directions, not by failing. Done
twice, it is orthonormal to round-off (as CholeskyQR2 is).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_ROWS, _COLUMNS = 1 << 14, 1 << 12


def product64(a: Float[Array, "p i"], b: Float[Array, "p j"]) -> Float[np.ndarray, "i j"]:
    """A^T B in float64, exact but for its last rounding: 2 p i j flops in float64.

    The small lengths in a Gram matrix of float32 columns are lost below sqrt(eps) of the longest when its
    products are summed in float32; here they are good down to the columns' own round-off.
    """
    total = np.zeros((a.shape[1], b.shape[1]))
    with jax.enable_x64(True):
        for start in range(0, a.shape[0], _ROWS):
            total += np.asarray(_product64(a[start : start + _ROWS], b[start : start + _ROWS]))
    return total


def inner64(a: Float[Array, "b p"], b: Float[Array, "c p"]) -> Float[np.ndarray, "b c"]:
    """A B^T in float64 as `product64`, for rows instead of columns: no transposed copy.

    On a CPU by BLAS, which is twice as quick there as XLA in float64, on pieces converted in buffers that stay in
    cache: to convert whole blocks took longer than to multiply them.
    """
    total = np.zeros((a.shape[0], b.shape[0]))
    if jax.default_backend() == "cpu":
        sides = [np.asarray(rows) for rows in ((a,) if a is b else (a, b))]  # of one array with itself half the work
        buffers = [np.empty((len(rows), _COLUMNS)) for rows in sides]
        for start in range(0, a.shape[1], _COLUMNS):
            pieces = [buffer[:, : a.shape[1] - start] for buffer in buffers]
            for piece, rows in zip(pieces, sides, strict=True):
                np.copyto(piece, rows[:, start : start + _COLUMNS])
            total += pieces[0] @ pieces[-1].T
        return total
    with jax.enable_x64(True):
        for start in range(0, a.shape[1], _ROWS):
            total += np.asarray(_inner64(a[:, start : start + _ROWS], b[:, start : start + _ROWS]))
    return total


@jax.jit
def _inner64(a: Float[Array, "b p"], b: Float[Array, "c p"]) -> Float[Array, "b c"]:
    return jnp.matmul(a.astype(jnp.float64), b.astype(jnp.float64).T)


@jax.jit
def _product64(a: Float[Array, "p i"], b: Float[Array, "p j"]) -> Float[Array, "i j"]:
    return jnp.matmul(a.astype(jnp.float64).T, b.astype(jnp.float64))


def project_out(block: Float[Array, "p r"], basis: Sequence[Float[Array, "p _"]]) -> Float[Array, "p r"]:
    """(I - Q Q^T) R for orthonormal Q = [Q_1 Q_2 ...]: 4 p q r flops."""
    for part in basis:
        inside = jnp.asarray(product64(part, block), block.dtype)
        block = block - jnp.matmul(part, inside, precision="highest")
    return block


def orthonormalise(
    block: Float[Array, "p r"], against: Sequence[Float[Array, "p _"]], *, noise: float, most: int
) -> Float[Array, "p t"]:
    """At most `most` orthonormal columns that span R's, orthogonal to the columns in `against` too.

    R is to be orthogonal to `against` up to round-off (`project_out`): what normalising short directions makes of that
    is projected away. R's directions no longer than `noise` are dropped (round-off of larger ones that were projected
    away), and of more than `most` the longest are kept. Cost: two rounds of 4 p r^2 flops and one of 4 p r q, q
    columns in `against`.
    """
    for floor in (noise, 0.0):
        if floor == 0.0:
            block = project_out(block, against)
        squares, vectors = np.linalg.eigh(product64(block, block))  # ascending
        keep = np.flatnonzero(squares > floor**2)[-most:] if most else np.zeros(0, int)
        turn = vectors[:, keep] / np.sqrt(squares[keep])[None, :]
        block = jnp.matmul(block, jnp.asarray(turn, block.dtype), precision="highest")
    return block
