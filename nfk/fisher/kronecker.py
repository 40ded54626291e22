"""Kronecker factors of the scores' covariance, one pair for each parameter array: they whiten a layer as a whole.

Of an array's centred gradient G, written a x b with its outputs last, L = E[G G^T] and R = E[G^T G]. L ⊗ R / tr(L)
stands for the covariance of G's a b numbers: exact where that is a Kronecker product, as K-FAC supposes (Martens,
Grosse 2015), here from the gradients themselves as in Shampoo (Gupta, Koren, Singer 2018). A bias is one row: its whole
covariance. All pairs lie end to end in one vector of `sides_size` numbers, which sums, merges and is stored as one.

What never moves on the examples is known by rows and columns, as all else is: an input or an output of an array none of
whose numbers moved counts as 0 (`live`), wherever it does move; a single number between live ones has their variance,
L_ii R_jj / tr(L) > 0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from nfk.fisher.parameters import Parameter
from nfk.in_cache import EXAMPLES
from nfk.linalg.blas import threads_for_eigenproblem

LARGEST_SIDE = 2048
"""A longer side is whitened by its diagonal: the eigenproblem of one of this size takes some 2 s, and two such
matrices of a layer 64 MiB."""

_ROUNDING = 4 * float(np.finfo(np.float32).eps)
"""Of the largest eigenvalue: what products in float32 leave where there is nothing"""

Root = Float[Array, "..."] | Float[np.ndarray, "..."]
Roots = tuple[tuple[Root, Root], ...]
"""L's and R's inverse square roots for each array: a matrix, or the diagonal of one"""


def sides_size(index: Sequence[Parameter]) -> int:
    """Numbers in all pairs together."""
    return sum(_numbers(side) for entry in index for side in _matrix_shape(entry))


def sides_sum(rows: Float[Array, "b p"] | Float[np.ndarray, "b p"], index: Sequence[Parameter]
              ) -> Float[np.ndarray, " s"]:
    """Sums of G G^T and G^T G over the rows: products of 32 rows in their precision (float32 at least), summed in
    float64; however small or large the numbers are, none is lost. Cost: 2 p (a + b) flops a row."""
    sums, index = np.zeros(sides_size(index)), tuple(index)
    for start in range(0, len(rows) if index else 0, EXAMPLES):
        part = jnp.asarray(rows[start : start + EXAMPLES])
        missing = (1 << (len(part) - 1).bit_length()) - len(part)  # rows of zeros add nothing; few sizes are compiled
        few = jnp.pad(part, ((0, missing), (0, 0))) if missing else part
        products, peaks = _products(few, index, LARGEST_SIDE)
        each = np.repeat(np.asarray(peaks, np.float64), [sides_size([entry]) for entry in index])
        sums += np.asarray(products, np.float64) * each**2
    return sums


@functools.partial(jax.jit, static_argnums=(1, 2))
def _products(
    rows: Float[Array, "b p"], index: tuple[Parameter, ...], largest: int
) -> tuple[Float[Array, " s"], Float[Array, " arrays"]]:
    """Both sides' products of each array, divided by its largest number (1 for zeros), whose square may leave float32;
    and that number."""
    products, peaks = [], []
    rows = rows if rows.dtype.itemsize >= 4 else rows.astype(jnp.float32)
    for entry in index:
        if math.prod(entry.shape) == 0:
            peaks.append(jnp.ones((), rows.dtype))
            continue
        grads = matrices(rows, entry)
        peak = jnp.abs(grads).max()
        peak = jnp.where(peak > 0, peak, 1)
        grads = grads / peak
        peaks.append(peak)
        for along in (jnp.swapaxes(grads, 1, 2), grads):
            flat = along.reshape(-1, along.shape[2])
            products.append(jnp.matmul(flat.T, flat, precision="highest").reshape(-1)
                            if flat.shape[1] <= largest else jnp.square(flat).sum(axis=0))
    return jnp.concatenate(products), jnp.stack(peaks)


def inverse_roots(
    sides: Float[np.ndarray, " s"], index: Sequence[Parameter], damping: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """tr(L)^(1/2) (L + damping mean eigenvalue)^(-1/2) and (R + ..)^(-1/2) of each array, float64; zero along what
    is then no more than float32's rounding: without damping, what never moved. Cost: an eigenproblem a side. ValueError
    for sides of other arrays."""
    if len(sides) != sides_size(index):
        raise ValueError(f"Kronecker factors of {len(sides)} numbers, and these parameters have {sides_size(index)}; "
                         "they belong to another model: make the statistics again")
    roots = []
    for _, left, right in _pairs(sides, index):
        trace = float(np.trace(left) if left.ndim == 2 else left.sum())
        roots.append((np.sqrt(trace) * _inverse_root(left, damping), _inverse_root(right, damping)))
    return roots


def live(diagonal: Float[np.ndarray, " p"], index: Sequence[Parameter]) -> Float[np.ndarray, " p"]:
    """1 for a number of whose row, and of whose column, of its array some number's variance is above 0; else 0."""
    moved = (matrices((diagonal > 0)[None, :], entry)[0] for entry in index)
    return np.concatenate([np.outer(each.any(axis=1), each.any(axis=0)).ravel() for each in moved]).astype(np.float64)


def whitened(
    rows: Float[Array, "b p"], index: Sequence[Parameter], roots: Roots, already: frozenset[int] = frozenset()
) -> Float[Array, "b p"]:
    """tr(L)^(1/2) L^(-1/2) G R^(-1/2) in place of each G but those in `already`; symmetric as a map of p numbers. 2 p
    (a + b) flops a row."""
    parts = []
    for number, (entry, (left, right)) in enumerate(zip(index, roots, strict=True)):
        if number in already:
            parts.append(rows[:, entry.place])
            continue
        part = matrices(rows, entry)
        part = jnp.asarray(left)[None, :, None] * part if left.ndim == 1 else jnp.einsum(
            "ij,njk->nik", left, part, precision="highest")
        part = jnp.asarray(right)[None, None, :] * part if right.ndim == 1 else jnp.matmul(
            part, right, precision="highest")
        parts.append(part.reshape(len(rows), -1))
    return jnp.concatenate(parts, axis=1)


def _pairs(sides: Float[np.ndarray, " s"], index: Sequence[Parameter]
           ) -> Iterator[tuple[Parameter, np.ndarray, np.ndarray]]:
    """Each array's entry with views of its L and its R."""
    at = 0
    for entry in index:
        views = []
        for side in _matrix_shape(entry):
            view = sides[at : at + _numbers(side)]
            views.append(view if side > LARGEST_SIDE else view.reshape(side, side))
            at += len(view)
        yield entry, views[0], views[1]


def _numbers(side: int) -> int:
    return side if side > LARGEST_SIDE else side**2


def _inverse_root(side: np.ndarray, damping: float) -> np.ndarray:
    if side.size == 0:
        return side
    if side.ndim == 1:
        damped = side + damping * side.mean()
        return np.where(damped > 0, 1 / np.sqrt(np.where(damped > 0, damped, 1)), 0)
    with threads_for_eigenproblem(len(side)):
        values, vectors = np.linalg.eigh(side)
    floor = _ROUNDING * max(values[-1], 0.0)
    damped = np.maximum(values, 0) + damping * max(values.mean(), 0.0)
    return (vectors * np.where(damped > floor, 1 / np.sqrt(np.where(damped > floor, damped, 1)), 0)) @ vectors.T


def matrices(
    rows: Shaped[Array, "n p"] | Shaped[np.ndarray, "n p"], entry: Parameter
) -> Shaped[Array, "n a b"] | Shaped[np.ndarray, "n a b"]:
    """One array's numbers of each row as a matrix, its outputs last."""
    return rows[:, entry.place].reshape(len(rows), *_matrix_shape(entry))


def _matrix_shape(entry: Parameter) -> tuple[int, int]:
    """(inputs, outputs): kernels have their outputs last. An array of no numbers has neither, whatever its shape."""
    if math.prod(entry.shape) == 0:
        return 0, 0
    return (math.prod(entry.shape[:-1]), entry.shape[-1]) if entry.shape else (1, 1)
