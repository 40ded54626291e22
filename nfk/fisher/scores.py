"""Per-example Fisher scores g(x) = grad_theta s(x; theta), block by block."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from nfk.devices import by_examples, everywhere, local_mesh
from nfk.fisher.factored import FactoredGradient
from nfk.fisher.parameters import flatten_batch, parameter_count, parameter_index
from nfk.fisher.whitening import Whitening, nothing_done
from nfk.in_cache import map_in_cache

PyTree = Any
LogDensity = Callable[[PyTree, Array, Array], Array]
"""log_density(params, x, key) -> scalar, for one example x without a batch axis; a tangent kernel's m outputs: (m,)"""
Outputs = Literal["all", "trace"]


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

    For a function f with `count` outputs, m, an example's rows come from its Jacobian (m x p), by one forward and m
    backward passes: outputs="all": m rows of p numbers, in the order of the outputs; "trace": one row of m p numbers,
    the gradients of all outputs end to end, so that <row(x), row(z)> = sum_j <grad f_j(x), grad f_j(z)>.

    Cost: one gradient (m of them) per example; one compilation for each size of block. Memory: a few times b p
    (b m p) numbers. Precision: that of `params`. Several devices share each block's examples.
    """

    def __init__(
        self, log_density: LogDensity, params: PyTree, key: Key[Array, ""] | None = None, *,
        outputs: Outputs | None = None, count: int = 1,
    ) -> None:
        self.log_density = log_density
        self.params = params
        self.outputs, self._count = outputs, count
        self.rows_each = count if outputs == "all" else 1
        self.size = parameter_count(params) * (count if outputs == "trace" else 1)
        self.index = parameter_index(params)
        self.dtype = jnp.result_type(*jax.tree.leaves(params))
        self.key = jax.random.key(0) if key is None else key
        self.mesh = local_mesh()
        self._placed = everywhere(self.mesh, (params, self.key))
        self._whitened = by_examples(self.mesh, functools.partial(_whitened, log_density, outputs), 1, 4)
        self._image = by_examples(self.mesh, functools.partial(_image, log_density, outputs), 1, 5)
        self._as_they_are = nothing_done(self.size, self.dtype)
        self._runs_again = True

    def __call__(self, block: Any, start: int = 0) -> Float[Array, "r p"]:
        """The scores themselves, `rows_each` rows an example."""
        return self.whitened(block, self._as_they_are, start)

    def whitened(self, block: Any, whitening: Whitening, start: int = 0) -> Float[Array, "r p"]:
        """The rows of V that `whitening` makes of g(x). ScoreError naming the first example (`start` is the block's
        first one) whose score is not finite."""
        count = len(block) * self.rows_each
        params, key = self._placed
        rows, sums = self._run(self._whitened, params, self._padded(block), key, whitening)
        if not np.isfinite(np.asarray(sums)).all():
            check_finite(np.asarray(rows[:count]), start, self.rows_each)
        return rows[:count]

    def image(
        self, block: Any, whitening: Whitening, right: Float[Array, "p k"], start: int = 0
    ) -> Float[Array, "r k"]:
        """`whitened` times `right`, each row used while it is in cache and never kept: as good as the gradient's
        price. ScoreError as `whitened`, and where a product leaves the precision."""
        count = len(block) * self.rows_each
        params, key = self._placed
        image = self._run(self._image, params, self._padded(block), key, whitening, right)[:count]
        if not np.isfinite(np.asarray(image)).all():
            self.whitened(block, whitening, start)  # names it where the score itself is not finite
            check_image(np.asarray(image), start, self.rows_each)
        return image

    def _run(self, made: Callable, params: PyTree, block: Array, key: Array, whitening: Whitening, *rest: Array) -> Any:
        """`made` of all that; gradients of a function whose program cannot be run again are whitened afterwards."""
        try:
            return made(params, block, key, whitening if self._runs_again else whitening.afterwards(), *rest)
        except jax.errors.UnexpectedTracerError:
            if not self._runs_again:
                raise
            self._runs_again = False
            return self._run(made, params, block, key, whitening, *rest)

    def _padded(self, given: Any) -> Array:
        """The block with its last example repeated up to a power of two for each device: few sizes, so few
        compilations."""
        block, devices = jnp.asarray(given), 1 if self.mesh is None else self.mesh.size
        rows = block.shape[0]
        missing = devices * (1 << (-(-rows // devices) - 1).bit_length()) - rows
        return block if missing == 0 else jnp.concatenate([block, jnp.repeat(block[-1:], missing, axis=0)])

    @functools.cached_property
    def in_float64(self) -> Scores:
        """The same scores of the same parameters in float64; to be taken and called under `jax.enable_x64(True)`."""
        params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), self.params)
        return Scores(self.log_density, params, self.key, outputs=self.outputs, count=self._count)

    def probe(self, examples: Examples, rows: int = 256) -> None:
        """Score the first `rows` examples twice: ScoreError unless they agree bit for bit and are finite."""
        block = examples[0 : min(rows, examples.shape[0])]
        first, second = np.asarray(self(block)), np.asarray(self(block))
        if not np.array_equal(first, second):
            worst = float(np.max(np.abs(first - second)))
            raise ScoreError(f"two passes over the same examples differ by up to {worst:.3g}: the model is not "
                             f"deterministic; fix its noise or dropout, or derive them from `key`")


def output_count(
    function: LogDensity, params: PyTree, example: Any, key: Key[Array, ""] | None, outputs: Outputs | None
) -> int:
    """m, the numbers that `function` returns for one example; ScoreError where they do not go with `outputs`. Cost:
    one abstract evaluation."""
    key = jax.random.key(0) if key is None else key
    shape = jax.eval_shape(function, params, jnp.asarray(example), key).shape
    if outputs is None and shape != ():
        raise ScoreError(f"the function returns an array of shape {shape}, and outputs=None wants a scalar; "
                         "say outputs='all' or outputs='trace'")
    if outputs is not None and len(shape) != 1:
        raise ScoreError(f"outputs={outputs!r} wants a function that returns a vector (m,), not shape {shape}; "
                         + ("leave outputs out" if shape == () else "reshape its result"))
    return shape[0] if shape else 1


def check_finite(scores: Float[np.ndarray, "r p"], start: int, each: int = 1) -> None:
    """ScoreError naming the first example (`start` is the block's first, each has `each` rows) whose score is not
    finite."""
    finite = np.isfinite(scores).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        bad = int(np.sum(~np.isfinite(scores[row])))
        raise ScoreError(f"example {start + row // each}: {bad} of {scores.shape[1]} score entries are NaN or "
                         f"infinite; look at that example and at the model's weights")


def check_image(image: Float[np.ndarray, "r k"], start: int, each: int = 1) -> None:
    """ScoreError naming the first example (as `check_finite`) whose row times the right factor is not finite, though
    its score is."""
    finite = np.isfinite(image).all(axis=1)
    if not finite.all():
        raise ScoreError(f"example {start + int(np.argmin(finite)) // each}: its score is so long that its embedding "
                         f"leaves {image.dtype.name}; look at that example, or give params in float64")


def _jacobian(function: LogDensity) -> LogDensity:
    """The gradients of all outputs at one example, end to end: m p numbers."""
    def flat(params: PyTree, x: Array, key: Array) -> Float[Array, " mp"]:
        return flatten_batch(jax.jacrev(function)(params, x, key)).reshape(-1)

    return flat


def _rows(
    function: LogDensity, outputs: Outputs | None, params: PyTree, block: Array, key: Array, whitening: Whitening
) -> Callable[[Array], Float[Array, "r p"]]:
    """What makes the rows of V of examples such as those of the block."""
    gradient: LogDensity = jax.grad(function) if outputs is None else _jacobian(function)
    if outputs is None and (sides := whitening.sides()):
        gradient = FactoredGradient(function, params, block[0], key, sides)
        whitening = whitening.after(gradient.whitened)

    def rows(examples: Array) -> Float[Array, "r p"]:
        gradients = jax.vmap(gradient, in_axes=(None, 0, None))(params, examples, key)
        return whitening(flatten_batch(gradients).reshape(-1, len(whitening.mean)))

    return rows


def _whitened(
    function: LogDensity, outputs: Outputs | None, params: PyTree, block: Array, key: Array, whitening: Whitening
) -> tuple[Float[Array, "r p"], Float[Array, " r"]]:
    """The rows, and each one's sum: not finite where an entry is not (a product, since XLA's sums are slow on CPU)."""
    rows = _rows(function, outputs, params, block, key, whitening)

    def part(examples: Array) -> tuple[Array, Array]:
        found = rows(examples)
        return found, found @ jnp.ones_like(whitening.mean)

    return map_in_cache(part, block)


def _image(
    function: LogDensity, outputs: Outputs | None, params: PyTree, block: Array, key: Array, whitening: Whitening,
    right: Array
) -> Float[Array, "r k"]:
    rows = _rows(function, outputs, params, block, key, whitening)
    return map_in_cache(lambda examples: jnp.matmul(rows(examples), right, precision="highest"), block)
