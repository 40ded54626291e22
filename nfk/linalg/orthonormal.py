"""Orthonormal columns for tall matrices, by products only: one r x r eigenproblem instead of a tall QR. Where they are
spread over devices (`nfk.linalg.spread`), each makes its part of the r x r products, which are summed on the host.

SVQB (Stathopoulos and Wu, SIAM J. Sci. Comput. 23, 2002): with G = R^T R = E diag(d) E^T in float64,
Q = R E diag(d)^(-1/2). Unlike Cholesky it meets rank deficiency by dropping directions, not by failing. Done
twice, it is orthonormal to round-off (as CholeskyQR2 is).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nfk.linalg.blas import threads_for, threads_for_eigenproblem
from nfk.linalg.spread import parts

_ROWS, _BUFFER, _PIECE, _LONG = 1 << 12, 1 << 12, 1 << 8, 1 << 18


def inner_error(p: int, dtype: Any) -> float:
    """The standard deviation of an entry's error over |a| |b| when `inner` sums p columns in `dtype`, with room.

    eps sqrt((q + 3) / 16) sqrt(q / p) with q = min(p, 256), the columns of a piece: of q numbers of one sign and like
    size, added one after the other, the worst order, rounding moves the sum by eps sqrt(q / 36) of itself, and pieces
    err independently. Half as much again is for numbers of unlike size; a processor that keeps several sums side by
    side errs far less. Columns that repeat err alike: where all are, the error is eps sqrt((q + 3) / 16) for any p.
    """
    piece = min(p, _PIECE)
    return float(jnp.finfo(dtype).eps) * float(np.sqrt((piece + 3) / 16 * piece / p))


def product64(a: Float[Array, "p i"], b: Float[Array, "p j"]) -> Float[np.ndarray, "i j"]:
    """A^T B in float64, exact but for its last rounding: 2 p i j flops in float64.

    The small lengths in a Gram matrix of float32 columns are lost below sqrt(eps) of the longest when its
    products are summed in float32; here they are good down to the columns' own round-off.
    """
    if jax.default_backend() != "cpu":
        with jax.enable_x64(True):
            return _summed(_product64, a, b)
    total, same = np.zeros((a.shape[1], b.shape[1])), a is b
    with threads_for(2 * a.shape[0] * total.size):
        for pair in zip(parts(a), parts(b), strict=True):
            sides = [np.asarray(columns) for columns in (pair[:1] if same else pair)]
            for start in range(0, len(sides[0]), _ROWS):
                wide = [columns[start : start + _ROWS].astype(np.float64) for columns in sides]
                total += wide[0].T @ wide[-1]  # of one array with itself half the work
    return total


def inner(a: Float[Array, "b p"], b: Float[Array, "c p"], *, double: bool = True) -> Float[np.ndarray, "b c"]:
    """A B^T, for rows instead of columns: no transposed copy. 2 b c p flops.

    In float64 as `product64`; or, not `double`, products of 256 columns at a time in the rows' precision, summed in
    float64: several times as quick for float32, each entry's error then as `inner_error` has it.
    """
    sides = zip(parts(a, 1), parts(b, 1), strict=True)
    if not double or jax.default_backend() != "cpu" or a.dtype == jnp.float64:
        with jax.enable_x64(True):
            begun = [_inner(left, right, jnp.float64 if double else a.dtype) for left, right in sides]
        return reduce(np.add, map(np.asarray, begun))
    return reduce(np.add, (_blas_inner(*pair) for pair in sides))


def _blas_inner(a: Float[Array, "b p"], b: Float[Array, "c p"]) -> Float[np.ndarray, "b c"]:
    # by BLAS, twice as quick as XLA in float64 on a CPU, on pieces converted in buffers that stay in cache: to convert
    # whole blocks took longer than to multiply them
    total = np.zeros((a.shape[0], b.shape[0]))
    sides = [np.asarray(rows) for rows in ((a,) if a is b else (a, b))]  # of one array with itself half the work
    buffers = [np.empty((len(rows), _BUFFER)) for rows in sides]
    with threads_for(2 * a.shape[1] * total.size):
        for start in range(0, a.shape[1], _BUFFER):
            wide = [buffer[:, : a.shape[1] - start] for buffer in buffers]
            for part, rows in zip(wide, sides, strict=True):
                np.copyto(part, rows[:, start : start + _BUFFER])
            total += wide[0] @ wide[-1].T
    return total


@partial(jax.jit, static_argnums=2)
def _inner(a: Float[Array, "b p"], b: Float[Array, "c p"], dtype: Any) -> Float[Array, "b c"]:
    def product(left: Array, right: Array) -> Array:
        return jnp.matmul(left.astype(dtype), right.astype(dtype).T, precision="highest").astype(jnp.float64)

    columns = _BUFFER if dtype == jnp.float64 else _PIECE  # float64 needs no pieces but for its copies' memory

    def add(piece: Array, total: Array) -> Array:
        left, right = (jax.lax.dynamic_slice_in_dim(rows, piece * columns, columns, axis=1) for rows in (a, b))
        return total + product(left, right)

    whole = a.shape[1] // columns
    rest = product(a[:, whole * columns :], b[:, whole * columns :])
    return jax.lax.fori_loop(0, whole, add, rest) if whole else rest


@jax.jit
def _product64(a: Float[Array, "p i"], b: Float[Array, "p j"]) -> Float[Array, "i j"]:
    return jnp.matmul(a.astype(jnp.float64).T, b.astype(jnp.float64))


def project_out(block: Float[Array, "p r"], basis: Sequence[Float[Array, "p _"]]) -> Float[Array, "p r"]:
    """(I - Q Q^T) R for orthonormal Q = [Q_1 Q_2 ...], to R's round-off: 4 p q r flops in its precision."""
    for part in basis:
        block = _less(block, part, jnp.asarray(_summed(_product, part, block), block.dtype))
    return block


def _summed(
    product: Callable[[Array, Array], Array], a: Float[Array, "p i"], b: Float[Array, "p j"]
) -> Float[np.ndarray, "i j"]:
    """`product` of a's and b's rows by groups, all devices at work on their own, summed in float64 on the host."""
    total = np.zeros((a.shape[1], b.shape[1]))
    if total.size == 0:  # what has no columns is spread over nothing
        return total
    sides = list(zip(parts(a), parts(b), strict=True))
    for start in range(0, len(sides[0][0]), _LONG):
        begun = [product(left[start : start + _LONG], right[start : start + _LONG]) for left, right in sides]
        for made in begun:
            total += np.asarray(made)
    return total


@jax.jit
def _product(a: Float[Array, "p i"], b: Float[Array, "p j"]) -> Float[Array, "i j"]:
    return jnp.matmul(a.T, b, precision="highest")


@jax.jit
def _less(block: Float[Array, "p r"], part: Float[Array, "p q"], inside: Float[Array, "q r"]) -> Float[Array, "p r"]:
    return block - jnp.matmul(part, inside, precision="highest")


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
        gram = product64(block, block)
        with threads_for_eigenproblem(len(gram)):
            squares, vectors = np.linalg.eigh(gram)  # ascending
        keep = np.flatnonzero(squares > floor**2)[-most:] if most else np.zeros(0, int)
        turn = vectors[:, keep] / np.sqrt(squares[keep])[None, :]
        block = jnp.matmul(block, jnp.asarray(turn, block.dtype), precision="highest")
    return block
