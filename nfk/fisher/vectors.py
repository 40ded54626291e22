"""The matrix of Fisher vectors, V in R^(n x p), as blocks of rows that are never kept.

V_x = (I + damping * mean(I))^(-1/2) * (g(x) - Z), element-wise; or whitened by Kronecker factors, or of unit length
(`nfk.fisher.whitening`).
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from nfk.devices import everywhere
from nfk.fisher.scores import Examples, ScoreError, Scores
from nfk.fisher.statistics import FisherStatistics
from nfk.fisher.whitening import Whitening
from nfk.linalg.rows import block_bounds
from nfk.linalg.tall import FiledRows

_RUNS = 8
_ROUNDING = 1e-2
"""Above this part of their norm, rows in two precisions differ by more than rounding."""


class FisherVectors:
    """V by blocks (satisfies `nfk.linalg.rows.RowBlocks`): one gradient per row, centred and whitened.

    Each block is centred before anything is summed: folding the mean in afterwards would cancel. The next
    block's examples are read while this one is computed. An example has `scores.rows_each` rows, next to each other
    (one, but where every output has its own), and a block no part of an example: `block_rows` given is for one row an
    example, and counts that many examples. `whitening`: what `statistics.whitening` gave, where it was made before:
    Kronecker factors take an eigenproblem a side. Memory: a few times b p numbers.
    """

    def __init__(
        self, scores: Scores, examples: Examples, statistics: FisherStatistics, *, damping: float = 1e-3,
        unit_rows: bool = False, whitening: Whitening | None = None, block_rows: int = 256,
    ) -> None:
        if len(statistics.mean_score) != scores.size:
            raise ScoreError(f"the statistics have {len(statistics.mean_score)} parameters, the model "
                             f"{scores.size}; they belong to another model")
        self.shape = (examples.shape[0] * scores.rows_each, scores.size)
        self.block_rows = block_rows * scores.rows_each
        self.scores, self.statistics, self._examples = scores, statistics, examples
        self.whitening64 = whitening or statistics.whitening(scores.index, damping=damping, unit_rows=unit_rows)
        self.whitening = everywhere(scores.mesh, self.whitening64.in_precision(scores.dtype))
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="nfk-read")
        self._ahead: tuple[int, Future | None] = (0, None)

    @property
    def whitening_bytes(self) -> int:
        """What Kronecker factors take: themselves and their roots in float64, these in the scores' precision too.
        Element-wise whitening is counted with the rows."""
        return sum(root.size for root in jax.tree.leaves(self.whitening.roots)) * (16 + self.scores.dtype.itemsize)

    def block(self, index: int) -> Float[Array, "b p"]:
        """Rows of block `index`. Raises ScoreError naming the first example whose score is not finite."""
        return self.scores.whitened(self._read(index), self.whitening, self._bounds(index)[0])

    def image(self, index: int, right: Float[Array, "p r"]) -> Float[Array, "b r"]:
        """Those rows times `right`; the rows are not kept."""
        return self.scores.image(self._read(index), self.whitening, right, self._bounds(index)[0])

    def examples(self, index: int) -> Any:
        """The examples of block `index`, (b, ...) as they were given; not the ones read ahead."""
        return self._slice(index)

    def sample64(
        self, count: int, among: tuple[int, int] | None = None, at_once: int | None = None
    ) -> tuple[Float[np.ndarray, "b p"] | FiledRows, Int[np.ndarray, " b"]]:
        """About `count` rows, evenly spread in a few runs, in float64 from gradients in float64; and which they are.
        `among` those from a first one to one before a last (whole examples), counted from the first; None: all.

        `at_once`: rows in memory together, in whole examples; if there are more, all come to be in a file.

        Where the model cannot be evaluated in float64, or is another function there (noise drawn in the default
        precision: the rows differ by more than 1 %), the rows of `block` as they are.
        """
        rows_each = self.scores.rows_each
        first, last = (bound // rows_each for bound in among or (0, self.shape[0]))
        count = min(-(-count // rows_each), last - first)  # of examples
        if count == 0:
            return np.zeros((0, self.shape[1])), np.zeros(0, int)
        runs = min(_RUNS, count)
        each = count // runs
        starts = np.linspace(first, last - each, runs).astype(int)
        which = np.concatenate([np.arange(start * rows_each, (start + each) * rows_each) for start in starts - first])
        most = max(1, (len(which) if at_once is None else at_once) // rows_each)
        if runs * each <= most:
            examples = np.concatenate([np.asarray(self._examples[start : start + each]) for start in starts.tolist()])
            return self._rows64(examples), which
        filed = FiledRows(self.shape[1])
        for start in starts.tolist():
            for part in range(start, start + each, most):
                filed.append(self._rows64(np.asarray(self._examples[part : min(part + most, start + each)])))
        return filed, which

    def _rows64(self, examples: Any) -> Float[np.ndarray, "b p"]:
        block, exact = np.asarray(self.scores.whitened(examples, self.whitening), np.float64), self.whitening64
        try:
            with jax.enable_x64(True):
                gradients = np.array(self.scores.in_float64(_float64(examples)))
        except TypeError:  # the model mixes in arrays or constants of one precision
            return block
        gradients -= exact.mean[None, :]
        gradients *= exact.weight[None, :]
        if exact.roots or exact.unit_rows:
            with jax.enable_x64(True):
                gradients = np.asarray(exact.turned(jnp.asarray(gradients)))
        same = np.linalg.norm(gradients - block) <= _ROUNDING * np.linalg.norm(gradients)
        return gradients if same else block

    def _read(self, index: int) -> Any:
        """The examples of block `index`, most often already read; then start on the block after it."""
        expected, ahead = self._ahead
        current = ahead.result() if ahead is not None and expected == index else self._slice(index)
        following = index + 1
        if following * self.block_rows < self.shape[0]:
            self._ahead = (following, self._reader.submit(self._slice, following))
        return current

    def _slice(self, index: int) -> Any:
        start, stop = self._bounds(index)
        return self._examples[start:stop]

    def _bounds(self, index: int) -> tuple[int, int]:
        """The first example of block `index`, and the one after its last."""
        start, stop = block_bounds(self, index)
        return start // self.scores.rows_each, stop // self.scores.rows_each


def _float64(examples: Any) -> Array:
    found = jnp.asarray(examples)
    return found.astype(jnp.float64) if jnp.issubdtype(found.dtype, jnp.floating) else found
