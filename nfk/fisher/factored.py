"""Gradients of matrix products, whitened by Kronecker factors while they are made: at about the product's price.

Where a parameter array W (a x b) enters the function once, in a product X W of t rows, its gradient is X^T D, D the
product's cotangent, and A (X^T D) B = (X A)^T (D B) for symmetric A and B: t (a^2 + b^2) multiplications, where a
gradient that is there already takes a b (a + b). A dense layer has t = 1, a convolution by patches one row a place. The
function is traced, whoever wrote it, and its program run with such products replaced. Left as it is: an array that is
used twice, transposed or cast, and what is within a loop, a branch, a recomputed part (`jax.checkpoint`) or a function
with a derivative of its own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal
from jaxtyping import Array, Float, Key

PyTree = Any
Tags = Mapping[Any, int]
"""the number of the parameter array that a variable of a program holds, reshaped to a matrix or not"""


class Sides(NamedTuple):
    """What an array's gradient is multiplied by."""

    left: Any
    """A, (a, a), or (a,) the diagonal of one"""
    right: Any
    """B, (b, b) or (b,)"""
    alive_left: Any
    """(a,): 0 where the gradient counts as 0, else 1"""
    alive_right: Any


class FactoredGradient:
    """grad_params function(params, x, key), of which the arrays in `whitened`, numbered as the tree's leaves, come
    multiplied by their `sides`, set to 0 before where these say so: those of `sides` that are used once, in a product
    for which it is the cheaper way.

    Cost of making one: the function is traced. Its call raises jax.errors.UnexpectedTracerError where a derivative that
    the function has of its own closes over what the function was given, which cannot be run a second time.
    """

    def __init__(
        self, function: Callable[[PyTree, Array, Key[Array, ""]], Array], params: PyTree, x: Array,
        key: Key[Array, ""], sides: Mapping[int, Sides],
    ) -> None:
        leaves, self._structure = jax.tree.flatten(params)
        self._program: Any = jax.make_jaxpr(lambda leaves, *rest: function(
            jax.tree.unflatten(self._structure, leaves), *rest))(leaves, x, key)
        tags = {self._program.jaxpr.invars[number]: number for number in sides}
        uses: dict[int, list[int | None]] = {number: [] for number in sides}
        for number, rows in _uses(self._program.jaxpr, tags, sides):
            uses[number].append(rows)
        self.whitened = frozenset(number for number, found in uses.items()
                                  if len(found) == 1 and found[0] is not None and _cheaper(found[0], sides[number]))
        self._sides = {number: sides[number] for number in self.whitened}
        self._tags = {variable: number for variable, number in tags.items() if number in self.whitened}

    def __call__(self, params: PyTree, x: Array, key: Key[Array, ""]) -> PyTree:
        """The gradient, shaped as `params`."""
        def value(leaves: list[Array]) -> Array:
            return _run(self._program.jaxpr, self._program.consts, [*leaves, x, key], self._tags, self._sides)[0]

        return jax.tree.unflatten(self._structure, jax.grad(value)(jax.tree.leaves(params)))


def _cheaper(rows: int, sides: Sides) -> bool:
    """Whether t rows of both sides take fewer multiplications than the gradient itself."""
    (a, b), (left, right) = (len(sides.left), len(sides.right)), (sides.left.size, sides.right.size)
    return rows * (left + right) < b * left + a * right


# --- programs ---


def _uses(program: Any, tags: Tags, sides: Mapping[int, Sides]) -> Iterator[tuple[int, int | None]]:
    """Each use of a tagged array: its number, and the rows of the product it enters; None: any other use."""
    held = dict(tags)
    for equation in program.eqns:
        tagged = {place: held[variable] for place, variable in enumerate(equation.invars)
                  if not isinstance(variable, Literal) and variable in held}
        if not tagged:
            continue
        if _makes_matrix(equation, sides[next(iter(tagged.values()))]):
            held[equation.outvars[0]] = tagged[0]
        elif (inner := _jitted(equation)) is not None:
            inside = {inner.jaxpr.invars[place]: number for place, number in tagged.items()}
            yield from _uses(inner.jaxpr, inside, sides)
        else:
            for place, number in tagged.items():
                product = place == 1 and _is_product(equation, sides[number])
                yield number, math.prod(equation.invars[0].aval.shape[:-1]) if product else None
    yield from ((held[variable], None) for variable in program.outvars
                if not isinstance(variable, Literal) and variable in held)


def _run(program: Any, constants: list[Any], arguments: list[Any], tags: Tags, sides: Mapping[int, Sides]) -> list[Any]:
    """What the program returns; its products with tagged arrays have `sides` in their gradient."""
    held = dict(tags)
    values: dict[Any, Any] = dict(zip(program.constvars, map(_array, constants), strict=True))
    values |= zip(program.invars, arguments, strict=True)

    def read(variable: Any) -> Any:
        return _array(variable.val) if isinstance(variable, Literal) else values[variable]

    for equation in program.eqns:
        given = [read(variable) for variable in equation.invars]
        tagged = {place: held[variable] for place, variable in enumerate(equation.invars)
                  if not isinstance(variable, Literal) and variable in held}
        inner = _jitted(equation) if tagged else None  # a call that holds none stays one
        if tagged and _makes_matrix(equation, sides[next(iter(tagged.values()))]):
            held[equation.outvars[0]] = tagged[0]
        if inner is not None:
            inside = {inner.jaxpr.invars[place]: number for place, number in tagged.items()}
            made = _run(inner.jaxpr, inner.consts, given, inside, sides)
        elif 1 in tagged and _is_product(equation, sides[tagged[1]]):
            made = [_product(*given, sides[tagged[1]], equation.params["precision"])]
        else:
            with equation.ctx.manager:
                made = equation.primitive.bind(*given, **equation.primitive.get_bind_params(equation.params))
            made = made if equation.primitive.multiple_results else [made]
        values |= zip(equation.outvars, made, strict=True)
    return [read(variable) for variable in program.outvars]


def _array(constant: Any) -> Any:
    """Programs hold theirs as arrays of another kind, which a function's own derivative need not know."""
    return constant if isinstance(constant, jax.Array) or not hasattr(constant, "shape") else jnp.asarray(constant)


def _jitted(equation: Any) -> Any:
    """The program of a jitted function that is called; None: the equation is no such call."""
    return equation.params["jaxpr"] if equation.primitive.name == "jit" else None


def _makes_matrix(equation: Any, sides: Sides) -> bool:
    """Whether an array of any shape becomes its a x b matrix."""
    return (equation.primitive.name == "reshape" and equation.params["dimensions"] is None
            and equation.outvars[0].aval.shape == (len(sides.left), len(sides.right)))


def _is_product(equation: Any, sides: Sides) -> bool:
    """Whether it is X W, X of any number of axes and W a x b, all in one precision."""
    if equation.primitive.name != "dot_general":
        return False
    (x, w), (y,) = (variable.aval for variable in equation.invars), (variable.aval for variable in equation.outvars)
    return (equation.params["dimension_numbers"] == (((x.ndim - 1,), (0,)), ((), ()))
            and w.shape == (len(sides.left), len(sides.right)) and x.dtype == w.dtype == y.dtype)


# --- the product ---


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _product(x: Float[Array, "*t a"], w: Float[Array, "a b"], sides: Sides, precision: Any) -> Float[Array, "*t b"]:
    return lax.dot_general(x, w, (((x.ndim - 1,), (0,)), ((), ())), precision=precision)


def _forward(x: Array, w: Array, sides: Sides, precision: Any) -> tuple[Array, tuple[Array, Array, Sides]]:
    return _product(x, w, sides, precision), (x, w, sides)


def _backward(precision: Any, kept: tuple[Array, Array, Sides], cotangent: Array) -> tuple[Array, Array, None]:
    x, w, sides = kept
    of_x = lax.dot_general(cotangent, w, (((cotangent.ndim - 1,), (1,)), ((), ())), precision=precision)
    left = _times(x.reshape(-1, x.shape[-1]) * sides.alive_left[None, :], sides.left)
    right = _times(cotangent.reshape(-1, cotangent.shape[-1]) * sides.alive_right[None, :], sides.right)
    return of_x, jnp.matmul(left.T, right, precision="highest"), None


_product.defvjp(_forward, _backward)


def _times(rows: Float[Array, "t a"], side: Float[Array, "..."]) -> Float[Array, "t a"]:
    return jnp.matmul(rows, side, precision="highest") if side.ndim == 2 else rows * side[None, :]
