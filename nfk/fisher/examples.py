"""Examples as a user hands them over, refused in one line where no score of them could be right."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import issparse

from nfk.fisher.scores import Examples

Given = Examples | ArrayLike
"""Examples, or what NumPy makes an array of: nested lists, a data frame of flat rows"""


class CheckedExamples:
    """The same examples, each block of them looked at when it is read, so that nothing is read for it alone.

    Reading raises ValueError for complex numbers, or naming the first example that holds NaN or an infinity: a network
    may well have finite scores there (a saturated unit, a maximum).
    """

    def __init__(self, examples: Examples) -> None:
        self.shape = tuple(examples.shape)
        self._examples = examples

    def __getitem__(self, rows: slice) -> Any:
        block = self._examples[rows]
        if block.dtype == object:
            block = block.astype(np.float64)
        if jnp.issubdtype(block.dtype, jnp.complexfloating):
            raise ValueError(f"Complex data not supported: examples are {block.dtype}; give real numbers")
        if jnp.issubdtype(block.dtype, jnp.floating):
            _check_finite(block, rows.start or 0)
        return block


def checked(given: Given, name: str = "images") -> CheckedExamples:
    """`given` as examples that can be cut by rows. TypeError for sparse rows; ValueError for no axis of examples, no
    examples, or examples of no numbers."""
    if issparse(given):
        raise TypeError(f"{name} is a sparse matrix of shape {cast(Any, given).shape}, and sparse input is not "
                        f"supported; give {name}.toarray()")
    by_rows = isinstance(given, Examples) and not hasattr(given, "columns")  # [] of a data frame is by name
    examples = cast(Examples, given) if by_rows else np.asarray(given)
    shape = tuple(examples.shape)
    if len(shape) < 2:
        raise ValueError(f"{name} has shape {shape}, and the first axis counts examples. Reshape your data: "
                         f"{name}[None] if it is one example, {name}.reshape(-1, 1) if each number is one")
    if shape[0] == 0:
        raise ValueError(f"0 sample(s) (shape={shape}) while a minimum of 1 is required; {name} is empty")
    if 0 in shape:
        raise ValueError(f"0 feature(s) (shape={shape}) while a minimum of 1 is required; {name} holds no numbers")
    return CheckedExamples(examples)


def _check_finite(block: Any, start: int) -> None:
    finite = (jnp if isinstance(block, jax.Array) else np).isfinite(block)
    if not finite.all():
        row = int(np.argmin(np.asarray(finite).reshape(len(block), -1).all(axis=1)))
        raise ValueError(f"example {start + row} holds NaN or an infinity (inf); mend or drop it")
