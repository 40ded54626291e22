"""Products with the matrix of Fisher vectors by Jacobian-vector products, V never formed: the paper's Algorithms 5, 6.

With J the Jacobian of the scores' potential (n x p), Z the mean score and T what whitens (diag(weight), or that and
Kronecker factors), V = (J - 1 Z^T) T, so V M = J T M - 1 (Z^T T M) and V^T Y = T^T (J^T Y - Z (1^T Y)). Rows of unit
length are those of that V, each divided by its length, for which a gradient of every example is made once.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nfk.fisher.parameters import unflatten
from nfk.fisher.scores import ScoreError
from nfk.fisher.vectors import FisherVectors
from nfk.fisher.whitening import lengths
from nfk.linalg.rows import block_bounds, block_count


class JacobianProducts:
    """V M and V^T Y (satisfies `nfk.linalg.subspace.Products`) for the rows of `vectors`, one tangent or cotangent a
    column through the network for every block of examples.

    Cost: r forward, or r backward, passes over the data. Memory: what r passes over one block hold. Raises ScoreError
    for the rows of several outputs.
    """

    def __init__(self, vectors: FisherVectors) -> None:
        if vectors.scores.outputs is not None:
            raise ScoreError(f"strategy=jvp takes functions of one output, not outputs={vectors.scores.outputs!r}; "
                             "choose stream, gram or auto")
        self.shape = vectors.shape
        self._vectors = vectors
        potential = functools.partial(_potentials, vectors.scores.log_density)
        self._forward = jax.jit(functools.partial(_forward, potential))
        self._backward = jax.jit(functools.partial(_backward, potential))

    def matmat(self, vectors: Float[Array, "p r"]) -> Float[Array, "n r"]:
        """V M: r forward passes over the data."""
        whitening = self._vectors.whitening
        weighted = whitening.times(vectors)
        shift = jnp.matmul(whitening.mean, weighted, precision="highest")
        blocks = [self._forward(self._params, self._examples(index), self._key, weighted)
                  for index in range(block_count(self._vectors))]
        return (jnp.concatenate(blocks) - shift[None, :]) / self._lengths[:, None]

    def rmatmat(self, vectors: Float[Array, "n r"]) -> Float[Array, "p r"]:
        """V^T Y: r backward passes over the data."""
        # cotangents as long as the lengths differ: divided by a long row's length they would leave float32
        whitening, longest = self._vectors.whitening, self._lengths.max()
        vectors = vectors * (longest / self._lengths)[:, None]
        total = jnp.zeros((self.shape[1], vectors.shape[1]), vectors.dtype)
        for index in range(block_count(self._vectors)):
            rows = vectors[slice(*block_bounds(self._vectors, index))]
            total = total + self._backward(self._params, self._examples(index), self._key, rows)
        total = total - whitening.mean[:, None] * vectors.sum(axis=0)[None, :]
        return whitening.transposed_times(total / longest)

    def squared_norm(self) -> float:
        """||V||_F^2, by one gradient an example: no product gives it."""
        return sum(float(np.sum(np.asarray(jnp.square(self._vectors.block(index))), dtype=np.float64))
                   for index in range(block_count(self._vectors)))

    @functools.cached_property
    def _lengths(self) -> Float[Array, " n"]:
        """|V_x| where rows are made unit, else 1."""
        vectors = self._vectors
        if not vectors.whitening.unit_rows:
            return jnp.ones(self.shape[0], vectors.scores.dtype)
        plain = dataclasses.replace(vectors.whitening, unit_rows=False)
        blocks = [vectors.scores.whitened(vectors.examples(index), plain, block_bounds(vectors, index)[0])
                  for index in range(block_count(vectors))]
        return jnp.concatenate([lengths(rows) for rows in blocks])

    def _examples(self, index: int) -> Array:
        return jnp.asarray(self._vectors.examples(index))

    @property
    def _params(self) -> Any:
        return self._vectors.scores.params

    @property
    def _key(self) -> Array:
        return self._vectors.scores.key


def _potentials(log_density: Any, params: Any, block: Array, key: Array) -> Float[Array, " b"]:
    return jax.vmap(log_density, in_axes=(None, 0, None))(params, block, key)


def _forward(potential: Any, params: Any, block: Array, key: Array, tangents: Array) -> Float[Array, "b r"]:
    def product(tangent: Array) -> Array:
        return jax.jvp(lambda p: potential(p, block, key), (params,), (unflatten(tangent, params),))[1]

    return jax.vmap(product, in_axes=1, out_axes=1)(tangents)


def _backward(potential: Any, params: Any, block: Array, key: Array, cotangents: Array) -> Float[Array, "p r"]:
    _, pull = jax.vjp(lambda p: potential(p, block, key), params)
    pulled = jax.vmap(lambda cotangent: pull(cotangent)[0], in_axes=1)(cotangents)
    return jnp.concatenate([leaf.reshape(leaf.shape[0], -1).T for leaf in jax.tree.leaves(pulled)])
