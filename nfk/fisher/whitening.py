"""What makes Fisher vectors of scores: the mean taken away, the covariance made even, and each row's length if asked.

Element-wise, V_x = (I + damping * mean(I))^(-1/2) * (g(x) - Z), the paper's. With Kronecker factors each parameter
array is whitened as a whole (`nfk.fisher.kronecker`); where that is cheaper, while its gradients are made
(`nfk.fisher.factored`). `unit_rows` divides each V_x by its length: the kernel is then the cosine of two Fisher
vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nfk.fisher.factored import Sides
from nfk.fisher.kronecker import Roots, live, matrices, whitened
from nfk.fisher.parameters import Parameter


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Whitening:
    """The map of raw gradients g(x) to rows of V, compiled with what computes them."""

    mean: Any
    """(p,), and so `weight`; Any, since JAX puts shapes and placements in the arrays' places"""
    weight: Any
    roots: Any
    """of each array's two sides; none: element-wise"""
    index: tuple[Parameter, ...] = field(metadata={"static": True})
    unit_rows: bool = field(metadata={"static": True})
    turned_mean: Any = ()
    """(p,): the mean, weighted and whitened; none: no gradient is whitened while it is made"""
    already: frozenset[int] = field(default=frozenset(), metadata={"static": True})
    """the arrays whose gradients are given weighted and multiplied by their roots"""

    def __call__(self, gradients: Float[Array, "b p"]) -> Float[Array, "b p"]:
        """Rows of V."""
        return self.turned((gradients - self.mean[None, :]) * self.weight[None, :])

    def turned(self, rows: Float[Array, "b p"]) -> Float[Array, "b p"]:
        """Rows of V from rows that are centred and weighted."""
        rows = whitened(rows, self.index, self.roots, self.already) if self.roots else rows
        return unit_rows(rows) if self.unit_rows else rows

    def after(self, already: frozenset[int]) -> Whitening:
        """The map of gradients of which these arrays' are weighted and multiplied by their roots."""
        if not already:
            return self
        parts = [(self.turned_mean[entry.place], jnp.ones_like(self.weight[entry.place])) if number in already else
                 (self.mean[entry.place], self.weight[entry.place]) for number, entry in enumerate(self.index)]
        mean, weight = map(jnp.concatenate, zip(*parts, strict=True))
        return replace(self, mean=mean, weight=weight, already=already)

    def afterwards(self) -> Whitening:
        """The same map, of gradients none of which is whitened while it is made."""
        return replace(self, turned_mean=())

    def sides(self) -> dict[int, Sides]:
        """What may multiply gradients while they are made, by the array's number."""
        if not len(self.turned_mean):
            return {}
        found = {}
        for number, (entry, (left, right)) in enumerate(zip(self.index, self.roots, strict=True)):
            if 0 in left.shape:  # an array of no numbers
                continue
            alive = matrices(self.weight[None, :], entry)[0]
            found[number] = Sides(left, right, alive.max(axis=1), alive.max(axis=0))
        return found

    def times(self, columns: Float[Array, "p r"]) -> Float[Array, "p r"]:
        """T M of the map's linear part T, V = (J - 1 Z^T) T before rows are made unit."""
        return self._turn_columns(columns) * self.weight[:, None]

    def transposed_times(self, columns: Float[Array, "p r"]) -> Float[Array, "p r"]:
        """T^T M."""
        return self._turn_columns(columns * self.weight[:, None])

    def _turn_columns(self, columns: Float[Array, "p r"]) -> Float[Array, "p r"]:
        return whitened(columns.T, self.index, self.roots).T if self.roots else columns

    def in_precision(self, dtype: Any) -> Whitening:
        """The same with numbers of `dtype`."""
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), self)


def by_roots(
    mean: Float[np.ndarray, " p"], diagonal: Float[np.ndarray, " p"], roots: Roots, index: Sequence[Parameter], *,
    unit_rows: bool,
) -> Whitening:
    """The map by Kronecker factors, float64; the weight 0 is for what `live` has as 0."""
    alive = live(diagonal, index)
    with jax.enable_x64(True):
        turned = np.asarray(whitened(jnp.asarray((mean * alive)[None, :]), index, roots))[0]
    return Whitening(mean, alive, roots, tuple(index), unit_rows, turned)


def nothing_done(size: int, dtype: Any) -> Whitening:
    """The map that gives gradients back as they are."""
    return Whitening(jnp.zeros(size, dtype), jnp.ones(size, dtype), (), (), False)


def unit_rows(rows: Float[Array, "b p"]) -> Float[Array, "b p"]:
    """V_x / |V_x|; a zero row stays zero."""
    return rows / lengths(rows)[:, None]


def lengths(rows: Float[Array, "b p"]) -> Float[Array, " b"]:
    """What `unit_rows` divides by: |V_x|, 1 for a zero row. Of rows divided by their largest number, whose square may
    leave float32."""
    largest = _or_one(jnp.abs(rows).max(axis=1))
    return largest * _or_one(jnp.linalg.norm(rows / largest[:, None], axis=1))


def _or_one(numbers: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.where(numbers > 0, numbers, 1)
