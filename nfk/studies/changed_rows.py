"""Fisher vectors made otherwise, from gradients that are kept: what is changed of them, row by row or layer by layer.

A change takes a block of raw gradients g(x), b x p, and gives the vectors that stand in for V_x. Each costs a few
passes over the block's numbers, no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nfk.fisher.kronecker import inverse_roots, sides_size, sides_sum, whitened
from nfk.fisher.parameters import Parameter
from nfk.fisher.statistics import FisherStatistics
from nfk.fisher.whitening import unit_rows
from nfk.linalg.rows import KeptRows, RowBlocks, block_count

Change = Callable[[Float[Array, "b p"]], Float[Array, "b p"]]


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


def kronecker_whitening(centred: RowBlocks, index: Sequence[Parameter], damping: float) -> Change:
    """Each parameter array whitened as a whole, in place of the diagonal weights, by `nfk.fisher.kronecker`'s factors
    over the rows of `centred` (the model's samples)."""
    sides = sum((sides_sum(centred.block(block), index) for block in range(block_count(centred))),
                np.zeros(sides_size(index))) / centred.shape[0]
    roots = tuple((jnp.asarray(left, jnp.float32), jnp.asarray(right, jnp.float32))
                  for left, right in inverse_roots(sides, index, damping))
    return lambda rows: whitened(rows, index, roots)


def _part(entry: Parameter) -> slice:
    return slice(entry.offset, entry.offset + _size(entry))


def _size(entry: Parameter) -> int:
    return int(np.prod(entry.shape))
