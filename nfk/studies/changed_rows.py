"""Fisher vectors made otherwise, from gradients that are kept: what is changed of them, row by row or layer by layer.

A change takes a block of raw gradients g(x), b x p, and gives the vectors that stand in for V_x. Each costs a few
passes over the block's numbers, no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nfk.fisher.parameters import Parameter
from nfk.fisher.statistics import FisherStatistics
from nfk.linalg.orthonormal import product64
from nfk.linalg.rows import KeptRows, RowBlocks, block_count

Change = Callable[[Float[Array, "b p"]], Float[Array, "b p"]]

_LARGEST_SIDE = 2048
"""A layer's longer side is whitened by its diagonal: an eigenproblem of that size takes some 2 s."""


class ChangedRows(KeptRows):
    """Rows, each block changed whenever it is asked for."""

    def __init__(self, rows: RowBlocks, change: Change) -> None:
        self.shape, self.block_rows = rows.shape, rows.block_rows
        self._rows, self._change = rows, change

    def block(self, index: int) -> Float[Array, "b p"]:
        return self._change(self._rows.block(index))


def one_after_another(*changes: Change) -> Change:
    def change(rows: Float[Array, "b p"]) -> Float[Array, "b p"]:
        for each in changes:
            rows = each(rows)
        return rows

    return change


def centred_and_weighted(mean: Float[np.ndarray, " p"], weight: Float[np.ndarray, " p"]) -> Change:
    """weight * (g - mean), element-wise: the Fisher vector, where they are Z and (I + damping mean(I))^(-1/2)."""
    shift, scale = jnp.asarray(mean, jnp.float32), jnp.asarray(weight, jnp.float32)
    return lambda rows: (rows - shift[None, :]) * scale[None, :]


def unit_rows(rows: Float[Array, "b p"]) -> Float[Array, "b p"]:
    """V_x / |V_x|; a zero row stays zero."""
    lengths = jnp.linalg.norm(rows, axis=1, keepdims=True)
    return rows / jnp.where(lengths > 0, lengths, 1)


def signed_square_root(rows: Float[Array, "b p"]) -> Float[Array, "b p"]:
    """sign(v) |v|^(1/2), element-wise (Perronnin, Sanchez, Mensink 2010)."""
    return jnp.sign(rows) * jnp.sqrt(jnp.abs(rows))


def in_bfloat16(rows: Float[Array, "b p"]) -> Float[Array, "b p"]:
    """Rounded to 8 bits of mantissa."""
    return rows.astype(jnp.bfloat16).astype(jnp.float32)


def unit_layers(index: Sequence[Parameter]) -> Change:
    """The part of each parameter array in each row, divided by its length."""
    def change(rows: Float[Array, "b p"]) -> Float[Array, "b p"]:
        return jnp.concatenate([unit_rows(rows[:, part]) for part in map(_part, index)], axis=1)

    return change


def layer_weights(statistics: FisherStatistics, index: Sequence[Parameter]) -> Float[np.ndarray, " p"]:
    """One weight for all of a parameter array, mean(I)^(-1/2) over it: every array's part of V then has mean square 1 a
    parameter on the model's samples. 0 for an array whose score never moves."""
    means = np.concatenate([np.full(_size(entry), statistics.diagonal[_part(entry)].mean()) for entry in index])
    return np.where(means > 0, 1 / np.sqrt(np.where(means > 0, means, 1.0)), 0.0)


class _Sides(NamedTuple):
    """Of one parameter array, its gradient G as a x b, outputs last: L = E[G G^T] and R = E[G^T G], each a matrix, or
    its diagonal."""

    left: np.ndarray
    right: np.ndarray


def kronecker_whitening(centred: RowBlocks, index: Sequence[Parameter], damping: float) -> Change:
    """tr(L)^(1/2) L^(-1/2) G R^(-1/2) of each parameter array's centred gradient G, in place of the diagonal weights.

    L ⊗ R / tr(L) stands for the covariance of G's numbers over the rows of `centred` (the model's samples): exact where
    that is a Kronecker product, as K-FAC supposes (Martens, Grosse 2015), here from the gradients themselves as in
    Shampoo (Gupta, Koren, Singer 2018). A bias is a row: its whole covariance. L and R are damped by `damping` times
    their mean eigenvalue. Cost: p (a + b) multiply-adds a row, twice. Holds the sides' matrices.
    """
    roots = [_inverse_roots(sides, damping) for sides in _sides(centred, index)]

    def change(rows: Float[Array, "b p"]) -> Float[Array, "b p"]:
        parts = []
        for entry, (left, right) in zip(index, roots, strict=True):
            part = _from_left(jnp.asarray(left, rows.dtype), _matrices(rows, entry))
            part = jnp.swapaxes(_from_left(jnp.asarray(right, rows.dtype), jnp.swapaxes(part, 1, 2)), 1, 2)
            parts.append(part.reshape(len(rows), -1))
        return jnp.concatenate(parts, axis=1)

    return change


def _sides(centred: RowBlocks, index: Sequence[Parameter]) -> list[_Sides]:
    sums = [_Sides(*(np.zeros((side, side) if side <= _LARGEST_SIDE else side) for side in _matrix_shape(entry)))
            for entry in index]
    for block in range(block_count(centred)):
        rows = centred.block(block)
        for entry, (left, right) in zip(index, sums, strict=True):
            part = _matrices(rows, entry)
            for total, along in ((right, part), (left, jnp.swapaxes(part, 1, 2))):
                flat = along.reshape(-1, along.shape[2])
                total += product64(flat, flat) if total.ndim == 2 else np.asarray((flat**2).sum(axis=0), np.float64)
    return [_Sides(left / centred.shape[0], right / centred.shape[0]) for left, right in sums]


def _inverse_roots(sides: _Sides, damping: float) -> tuple[np.ndarray, np.ndarray]:
    """tr(L)^(1/2) (L + ..)^(-1/2) and (R + ..)^(-1/2); zeros where the gradients are."""
    trace = float(np.trace(sides.left) if sides.left.ndim == 2 else sides.left.sum())
    return np.sqrt(trace) * _inverse_root(sides.left, damping), _inverse_root(sides.right, damping)


def _inverse_root(side: np.ndarray, damping: float) -> np.ndarray:
    if side.ndim == 1:
        damped = side + damping * side.mean()
        return np.where(damped > 0, 1 / np.sqrt(np.where(damped > 0, damped, 1)), 0)
    values, vectors = np.linalg.eigh(side)
    floor = len(side) * np.finfo(np.float64).eps * max(values[-1], 0.0)  # round-off of a singular side
    damped = np.where(values > floor, values, 0) + damping * max(values.mean(), 0.0)
    return (vectors * np.where(damped > floor, 1 / np.sqrt(np.where(damped > floor, damped, 1)), 0)) @ vectors.T


def _from_left(factor: Float[Array, "..."], matrices: Float[Array, "n a b"]) -> Float[Array, "n a b"]:
    if factor.ndim == 1:
        return factor[None, :, None] * matrices
    return jnp.einsum("ij,njk->nik", factor, matrices, precision="highest")


def _matrices(rows: Float[Array, "n p"], entry: Parameter) -> Float[Array, "n a b"]:
    return rows[:, _part(entry)].reshape(len(rows), *_matrix_shape(entry))


def _matrix_shape(entry: Parameter) -> tuple[int, int]:
    """(inputs, outputs): kernels have their outputs last."""
    return (_size(entry) // entry.shape[-1], entry.shape[-1]) if entry.shape else (1, 1)


def _part(entry: Parameter) -> slice:
    return slice(entry.offset, entry.offset + _size(entry))


def _size(entry: Parameter) -> int:
    return int(np.prod(entry.shape))
