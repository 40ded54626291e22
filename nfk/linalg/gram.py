"""Truncated SVD of V through its n x n Gram matrix K = V V^T, exact: the paper's Algorithm 1.

With V kept in memory this is the baseline (`explicit`); with V recomputed by pairs of row groups it is the
method of choice for small n (`gram`). K is summed in float64, so that its error is that of the rows. Where all rows
are held its products are tried in the rows' precision first, which is several times as quick, and kept if the modes
found stand clear of that rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nfk.checkpoint import Checkpoint, Forgetful
from nfk.linalg import spread
from nfk.linalg.eigen import leading_eigenpairs
from nfk.linalg.factors import Factors, RankError, numerical_rank, with_positive_peaks
from nfk.linalg.orthonormal import inner, inner_error, product64
from nfk.linalg.rows import Progress, RowBlocks, adjoint_pass, block_bounds, block_count, silent


def gram_matrix(
    rows: RowBlocks, *, resident_rows: int | None = None, double: bool = True, checkpoint: Checkpoint | None = None,
    progress: Progress = silent,
) -> tuple[Float[np.ndarray, "n n"], int]:
    """K = V V^T, summed in float64 (`double`: its products too), and the passes it took.

    A group of `resident_rows` rows is held while the rows after it stream by (None: all rows at once, one
    pass). Cost: n^2 p flops, about n / (2 resident_rows) + 1 passes. Memory: (resident_rows + b) p and n^2. Resumes
    from `checkpoint` on the same bits, for the price of the rows that were held.
    """
    checkpoint = Forgetful() if checkpoint is None else checkpoint
    n, blocks = rows.shape[0], block_count(rows)
    group = blocks if resident_rows is None else max(1, resident_rows // rows.block_rows)
    gram = np.zeros((n, n))
    seen, total = 0, sum(n - first * rows.block_rows for first in range(0, blocks, group))
    begun, done = 0, 0  # of the group from block `begun` on, tiles with blocks before `done` are there
    if (kept := checkpoint.load("gram")) is not None:
        gram, (begun, done, cut) = kept["gram"].copy(), kept["place"].tolist()
        done = done if cut == group else 0  # rows before `begun` have all their tiles, however they were grouped
        seen = sum(n - first * rows.block_rows for first in range(0, begun, group))
        del kept  # n^2 more
    for first in range(begun, blocks, group):
        held: list[tuple[int, int, Float[Array, "b p"]]] = []
        for index in range(first, blocks):
            start, stop = block_bounds(rows, index)
            seen += stop - start
            if index < done and index >= first + group:
                continue
            block = spread.along(rows.block(index))
            if index < first + group:
                held.append((start, stop, block))
            for held_start, held_stop, other in held:
                tile = inner(other, block, double=double)
                gram[held_start:held_stop, start:stop] = tile
                gram[start:stop, held_start:held_stop] = tile.T
            progress(min(seen, total), total, "Gram matrix")
            if checkpoint.due() and index >= first + group - 1:
                checkpoint.save("gram", {"gram": gram, "place": np.array([first, index + 1, group])})
        done = 0
    return gram, -(-total // n)


def gram_svd(
    rows: RowBlocks, *, rank: int, resident_rows: int | None = None, progress: Progress = silent
) -> Factors:
    """The leading `rank` modes of V from the eigenvectors of K: K = U diag(s^2) U^T, W = V^T U diag(1 / s).

    Cost: that of `gram_matrix`, one more pass with 2 n p k flops, and the eigenvectors'. Returns fewer
    than `rank` modes where V has no more. Raises RankError if rank exceeds min(n, p) or V is zero.
    """
    modes = gram_modes(rows, rank=rank, resident_rows=resident_rows, progress=progress)
    values, dtype = modes.singular_values, modes.left.dtype
    # V^T U is s W to the rows' round-off: what is not, is the residual
    image = adjoint_pass(rows, modes.left, label="right factor", progress=progress)
    lengths = np.sqrt(np.maximum(np.diag(product64(image, image)), 0.0))
    right = image / jnp.asarray(lengths, dtype)[None, :]
    residuals = _residuals(image, right, values) + float(jnp.finfo(dtype).eps) * values / values[0]
    left, right = with_positive_peaks(modes.left, right)
    return Factors(values, left, spread.factor(right, rows.shape[1]), residuals, modes.squared_norm, modes.passes + 1,
                   modes.errors)


class Modes(NamedTuple):
    """What K alone gives of V's leading modes."""

    singular_values: Float[np.ndarray, " k"]
    """s, float64"""
    left: Float[np.ndarray, "n k"]
    """U, in V's precision, its signs left to chance"""
    squared_norm: float
    """||V||_F^2"""
    passes: int
    errors: Float[np.ndarray, " k"]
    """what the rounding of K's products has done to each s_i^2, relative"""


def gram_modes(
    rows: RowBlocks, *, rank: int, resident_rows: int | None = None, checkpoint: Checkpoint | None = None,
    progress: Progress = silent,
) -> Modes:
    """s and U from K's eigenvectors, for the price of `gram_matrix` and theirs. RankError as `gram_svd`."""
    n, p = rows.shape
    if not 1 <= rank <= min(n, p):
        raise RankError(f"rank={rank} is not in 1..min(n, p)={min(n, p)}; lower it (svd.rank)")
    dtype = rows.block(0).dtype
    eps, passes = float(jnp.finfo(dtype).eps), 0
    for double in (False, True) if resident_rows is None and dtype != jnp.float64 else (True,):
        gram, made = gram_matrix(rows, resident_rows=resident_rows, double=double, checkpoint=checkpoint,
                                 progress=progress)
        lengths, passes = np.diag(gram), passes + made
        if not double and not np.isfinite(gram).all():  # squares beyond float32
            continue
        squares, vectors = leading_eigenpairs(gram, rank)
        # entries of K in error by independent e_xz of inner_error |V_x| |V_z| move s_i^2 by u_i^T e u_i; what is lost
        # below the smallest number of their precision, by its sum at most
        made_in = np.float64 if double else dtype
        moved = inner_error(p, made_in) * (lengths @ vectors**2) + n * p * float(jnp.finfo(made_in).tiny)
        if np.all(moved <= eps * squares):
            break
    squared_norm, count = float(np.sum(lengths)), numerical_rank(squares, eps, max(n, p))
    if count == 0:
        raise RankError("every row of the matrix is zero: no score differs from the mean score")
    return Modes(np.sqrt(squares[:count]), np.asarray(vectors[:, :count], dtype), squared_norm, passes,
                 moved[:count] / squares[:count])


def _residuals(
    image: Float[Array, "p k"], right: Float[Array, "p k"], values: Float[np.ndarray, " k"]
) -> Float[np.ndarray, " k"]:
    """||V^T u_i - s_i w_i|| / s_1"""
    rest = image - right * jnp.asarray(values, right.dtype)[None, :]
    return np.sqrt(np.maximum(np.diag(product64(rest, rest)), 0.0)) / values[0]
