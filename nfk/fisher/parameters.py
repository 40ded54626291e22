"""Where each parameter of a tree stands in the flat vector of p numbers."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

PyTree = Any


class Parameter(NamedTuple):
    """One leaf of the tree: numbers offset to offset + prod(shape) of the flat vector."""

    path: str
    """its keys, joined by /"""
    shape: tuple[int, ...]
    offset: int

    @property
    def place(self) -> slice:
        """Its numbers in the flat vector."""
        return slice(self.offset, self.offset + math.prod(self.shape))


def parameter_index(params: PyTree) -> tuple[Parameter, ...]:
    """The leaves in the order of the flat vector, each with its path, shape and first position."""
    entries, offset = [], 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        entries.append(Parameter(name, tuple(leaf.shape), offset))
        offset += leaf.size
    return tuple(entries)


def parameter_count(params: PyTree) -> int:
    """p, the numbers in all leaves together."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def unflatten(vector: Float[Array, " p"], like: PyTree) -> PyTree:
    """The tree shaped as `like` of the flat vector's p numbers: the inverse of `flatten_batch` for one row."""
    leaves, structure = jax.tree.flatten(like)
    stops = np.cumsum([leaf.size for leaf in leaves])[:-1]
    parts = jnp.split(vector, stops)
    return jax.tree.unflatten(
        structure, [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])


def flatten_batch(tree: PyTree) -> Float[Array, "b p"]:
    """Trees of (b, ...) leaves as rows of p numbers, in `parameter_index` order."""
    leaves = jax.tree.leaves(tree)
    return jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], axis=1)
