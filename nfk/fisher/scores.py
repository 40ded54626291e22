"""Per-example Fisher scores g(x) = grad_theta s(x; theta), block by block."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from nfk.fisher.parameters import flatten_batch, parameter_count
from nfk.in_cache import map_in_cache

PyTree = Any
LogDensity = Callable[[PyTree, Array, Array], Array]
"""log_density(params, x, key) -> scalar, for one example x without a batch axis"""


@runtime_checkable
class Examples(Protocol):
    """Anything of n examples that can be cut by rows: a NumPy, JAX or Zarr array, or a view of one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice) -> Any: ...


class ScoreError(ValueError):
    """The scores cannot be used: not finite, not repeatable, or all alike."""


class Scores:
    """g(x) for blocks of examples, by one batched backward pass.

    Every example gets the same key, so that what is random inside s is one draw shared by all, and V is the
    same matrix in every pass.

    Cost: one gradient per example; one compilation for each size of block. Memory: a few times b p numbers.
    Precision: that of `params`.
    """

    def __init__(self, log_density: LogDensity, params: PyTree, key: Key[Array, ""] | None = None) -> None:
        self.log_density = log_density
        self.params = params
        self.size = parameter_count(params)
        self.dtype = jnp.result_type(*jax.tree.leaves(params))
        self.key = jax.random.key(0) if key is None else key
        self._whitened = jax.jit(functools.partial(_whitened, log_density))
        self._image = jax.jit(functools.partial(_image, log_density))
        self._zero, self._one = jnp.zeros(self.size, self.dtype), jnp.ones(self.size, self.dtype)

    def __call__(self, block: Any, start: int = 0) -> Float[Array, "b p"]:
        """The scores themselves."""
        return self.whitened(block, self._zero, self._one, start)

    def whitened(
        self, block: Any, mean: Float[Array, " p"], weight: Float[Array, " p"], start: int = 0
    ) -> Float[Array, "b p"]:
        """weight * (g(x) - mean), element-wise. ScoreError naming the first example (`start` is the block's first
        row) whose score is not finite."""
        count = len(block)
        rows, sums = self._whitened(self.params, _padded(jnp.asarray(block)), self.key, mean, weight)
        if not np.isfinite(np.asarray(sums)).all():
            check_finite(np.asarray(rows[:count]), start)
        return rows[:count]

    def image(
        self, block: Any, mean: Float[Array, " p"], weight: Float[Array, " p"], right: Float[Array, "p k"],
        start: int = 0,
    ) -> Float[Array, "b k"]:
        """`whitened` times `right`, each row used while it is in cache and never kept: as good as the gradient's
        price."""
        count = len(block)
        image = self._image(self.params, _padded(jnp.asarray(block)), self.key, mean, weight, right)[:count]
        if not np.isfinite(np.asarray(image)).all():
            self.whitened(block, mean, weight, start)
        return image

    @functools.cached_property
    def in_float64(self) -> Scores:
        """The same scores of the same parameters in float64; to be taken and called under `jax.enable_x64(True)`."""
        params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), self.params)
        return Scores(self.log_density, params, self.key)

    def probe(self, examples: Examples, rows: int = 256) -> None:
        """Score the first `rows` examples twice: ScoreError unless they agree bit for bit and are finite."""
        block = examples[0 : min(rows, examples.shape[0])]
        first, second = np.asarray(self(block)), np.asarray(self(block))
        if not np.array_equal(first, second):
            worst = float(np.max(np.abs(first - second)))
            raise ScoreError(f"two passes over the same examples differ by up to {worst:.3g}: the model is not "
                             f"deterministic; fix its noise or dropout, or derive them from `key`")


def _padded(block: Array) -> Array:
    """The block with its last example repeated up to a power of two: few sizes, so few compilations."""
    rows = block.shape[0]
    missing = (1 << (rows - 1).bit_length()) - rows
    return block if missing == 0 else jnp.concatenate([block, jnp.repeat(block[-1:], missing, axis=0)])


def check_finite(scores: Float[np.ndarray, "b p"], start: int) -> None:
    """ScoreError naming the first example (`start` is the block's first row) whose score is not finite."""
    finite = np.isfinite(scores).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        bad = int(np.sum(~np.isfinite(scores[row])))
        raise ScoreError(f"example {start + row}: {bad} of {scores.shape[1]} score entries are NaN or infinite; "
                         f"look at that example and at the model's weights")


def _rows(
    log_density: LogDensity, params: PyTree, block: Array, key: Array, mean: Array, weight: Array
) -> Float[Array, "b p"]:
    gradients = jax.vmap(jax.grad(log_density), in_axes=(None, 0, None))(params, block, key)
    return (flatten_batch(gradients) - mean[None, :]) * weight[None, :]


def _whitened(
    log_density: LogDensity, params: PyTree, block: Array, key: Array, mean: Array, weight: Array
) -> tuple[Float[Array, "b p"], Float[Array, " b"]]:
    """The rows, and each one's sum: not finite where an entry is not (a product, since XLA's sums are slow on CPU)."""
    def part(examples: Array) -> tuple[Array, Array]:
        rows = _rows(log_density, params, examples, key, mean, weight)
        return rows, rows @ jnp.ones_like(mean)

    return map_in_cache(part, block)


def _image(
    log_density: LogDensity, params: PyTree, block: Array, key: Array, mean: Array, weight: Array, right: Array
) -> Float[Array, "b k"]:
    def part(examples: Array) -> Array:
        return jnp.matmul(_rows(log_density, params, examples, key, mean, weight), right, precision="highest")

    return map_in_cache(part, block)
