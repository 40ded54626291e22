"""Which parameters theta is made of: the leaves whose paths the patterns choose; all others are constants of s."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from nfk.fisher.scores import LogDensity

PyTree = Any
_SHOWN = 5


class ThetaError(ValueError):
    """The patterns do not choose parameters; the message is one line."""


class Theta(NamedTuple):
    """s as a function of the chosen parameters alone."""

    params: PyTree
    """The tree, with None for each leaf that is not chosen: paths and order are those of the whole tree."""
    log_density: LogDensity


def choose(
    log_density: LogDensity, params: PyTree, include: Sequence[str] | None = None, exclude: Sequence[str] = ()
) -> Theta:
    """The floating-point leaves whose "/"-joined path (`parameter_index`) is fully matched by a regular expression of
    `include` (None: all) and by none of `exclude`; the other leaves are constants.

    Leaves that are not floating-point arrays (counters, keys, masks) are never chosen. The tree and the function
    themselves where every leaf is chosen. Cost: nothing for a leaf not chosen, no gradient in it is taken.
    Raises ThetaError for a pattern that matches no such leaf, for a Python float, which is no array to take a gradient
    in, and where none is left.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    for path, (_, leaf) in zip(paths, leaves, strict=True):
        if isinstance(leaf, float) and not isinstance(leaf, np.generic):
            raise ThetaError(f"params[{path!r}] is a Python float; make it an array, or keep it outside params")
    real = [path for path, (_, leaf) in zip(paths, leaves, strict=True) if _is_real(leaf)]
    included = set(real) if include is None else _matched("include", include, real)
    names = included - _matched("exclude", exclude, real)
    if not names:
        raise ThetaError(f"include={include} and exclude={exclude} leave none of {len(real)} parameter arrays "
                         "in theta; widen include or drop an exclude")
    if not any(leaf.size for path, (_, leaf) in zip(paths, leaves, strict=True) if path in names):
        raise ThetaError(f"theta is {', '.join(sorted(names))}, of no number; widen include, drop an exclude or give "
                         "other params")
    kept = [path in names for path in paths]
    if all(kept):
        return Theta(params, log_density)
    pairs = [(keep, leaf) for keep, (_, leaf) in zip(kept, leaves, strict=True)]
    chosen = jax.tree.unflatten(structure, [leaf if keep else None for keep, leaf in pairs])
    fixed = jax.tree.unflatten(structure, [None if keep else leaf for keep, leaf in pairs])

    def of_chosen(theta: PyTree, x: Array, key: Array) -> Array:
        double = any(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(theta))
        rest = jax.tree.map(lambda leaf: leaf.astype(jnp.float64) if double and _is_real(leaf) else leaf, fixed)
        return log_density(_joined(theta, rest), x, key)

    return Theta(chosen, of_chosen)


def _joined(chosen: PyTree, fixed: PyTree) -> PyTree:
    """The whole tree: each leaf from the one of the two that has it."""
    return jax.tree.map(lambda a, b: b if a is None else a, chosen, fixed, is_leaf=lambda leaf: leaf is None)


def _is_real(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic) and jnp.issubdtype(leaf.dtype, jnp.floating)


def _matched(option: str, patterns: Sequence[str], paths: list[str]) -> set[str]:
    if isinstance(patterns, str):
        raise ThetaError(f"{option}={patterns!r} is one string; give a list of patterns, [{patterns!r}]")
    found: set[str] = set()
    for pattern in patterns:
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise ThetaError(f"{option} pattern {pattern!r} is no regular expression: {error}") from None
        if not (matching := {path for path in paths if expression.fullmatch(path)}):
            raise ThetaError(f"{option} pattern {pattern!r} matches none of {len(paths)} floating-point parameters; "
                             f"nearest: {', '.join(_nearest(pattern, paths)) or 'none'}")
        found |= matching
    return found


def _nearest(pattern: str, paths: list[str]) -> list[str]:
    def likeness(path: str) -> float:
        return difflib.SequenceMatcher(None, pattern, path).ratio()

    return sorted(paths, key=likeness, reverse=True)[:_SHOWN]
