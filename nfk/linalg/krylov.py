"""Truncated SVD of V by block Krylov iteration with Rayleigh-Ritz.

Each fused pass gives Y_j = V Q_j and Z_j = V^T Y_j; the next block Q_{j+1} is Z_j made orthonormal against all
blocks before it. After P passes the best rank-k approximation from the span of [Q_1 ... Q_P] comes from the
eigenvalues of [Y_1 ... Y_P]^T [Y_1 ... Y_P], a small matrix, in float64. Where subspace iteration keeps only
the last block, all of them are used here: the same accuracy in about half the passes (Musco and Musco,
NeurIPS 2015).

Q_1 is no blind guess where there are rows enough: it holds the right singular directions of a sample of them, which a
small Gram matrix gives for a fraction of a pass and which save a whole one, beside random directions for what the
sample may not show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from nfk.checkpoint import Forgetful, RowCheckpoint, RowFile
from nfk.linalg import spread
from nfk.linalg.blas import threads_for, threads_for_eigenproblem
from nfk.linalg.factors import Factors, RankError, numerical_rank, with_positive_peaks
from nfk.linalg.gram import gram_svd
from nfk.linalg.group import Alone, Group, all_have, from_first, share
from nfk.linalg.orthonormal import orthonormalise, product64, project_out
from nfk.linalg.rows import Progress, RowBlocks, SomeRows, StoredRows, block_count, fused_pass, silent

_ROWS = 1 << 12
_SAMPLE, _RANDOM = 8, 8
"""Rows sampled for each column of Q_1 (at most an eighth of them all), and columns left to chance"""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in the middle of a pass, with the factors that the whole passes before it give."""

    def __init__(self, factors: Callable[[], Factors]) -> None:
        super().__init__()
        self.factors = factors


def block_krylov(
    rows: RowBlocks,
    *,
    rank: int,
    key: Key[Array, ""],
    oversampling: int = 16,
    passes: int = 6,
    tolerance: float = 0.0,
    dtype: np.dtype | type = np.float32,
    checkpoint: RowCheckpoint | None = None,
    group: Group | None = None,
    progress: Progress = silent,
) -> Factors:
    """The leading `rank` modes of V.

    Stops before `passes` once the residual of every kept mode is at most `tolerance`. The processes of a `group` pass
    over a share of the rows each, and U has those rows; all else they find is the same. Each needs a checkpoint of its
    own, and for all that is not of the rows process 0's alone is used.

    Cost: at most `passes` passes over the data of 4 n p l flops each, l = rank + oversampling, about
    6 p (passes * l)^2 flops to orthogonalise, and for Q_1 the rows of at most n / 8 examples. Memory: the basis,
    (passes + 3) p l, spread over the devices there are, and U, n k, beside one block; Y, passes * n * l numbers, goes
    to files. Returns fewer than `rank` modes where V has no more. A group sums p l numbers a pass. Raises RankError if
    rank exceeds min(n, p) or V is zero, Interrupted for Ctrl-C once a pass is whole.
    """
    n, p = rows.shape
    if not 1 <= rank <= min(n, p):
        raise RankError(f"rank={rank} is not in 1..min(n, p)={min(n, p)}; lower it (svd.rank)")
    if passes < 1:
        raise RankError(f"passes={passes} is below 1; raise it")
    checkpoint, group = Forgetful() if checkpoint is None else checkpoint, Alone() if group is None else group
    width = min(rank + oversampling, n, p)
    basis = [_start(rows, width, passes, key, dtype, checkpoint, group, progress)]
    own = SomeRows(rows, share(block_count(rows), group))
    images: list[RowFile] = []
    gram, squared_norm = np.zeros((0, 0)), 0.0
    missed: list[Float[np.ndarray, "_ _"]] = []
    found: list[_Modes] = []
    for number in range(1, passes + 1):
        try:
            image, norm, left = _pass(own, basis[-1], number, passes, checkpoint, group, progress)
        except KeyboardInterrupt as stop:
            if not found:
                raise
            raise Interrupted(partial(_factors, own, images, basis, found, squared_norm)) from stop
        squared_norm = norm
        images.append(left)
        gram = _bordered(gram, images, own.shape[0], group)
        outside = project_out(project_out(image, basis), basis)  # what the span so far misses of Z
        found.append(_rayleigh_ritz(gram, [*missed, product64(outside, outside)], rank, float(np.finfo(dtype).eps),
                                    max(n, p)))
        enough = len(found[-1].squares) == rank and bool(np.all(found[-1].residuals <= tolerance))
        if enough or number == passes:
            break
        following = _next_block(image, outside, basis, p, jax.random.fold_in(key, number))
        if following.shape[1] == 0:
            break
        defect = project_out(outside, [following])  # what even Q_{j+1} misses: round-off
        missed.append(product64(defect, defect))
        basis.append(following)
    return _factors(own, images, basis, found, squared_norm)


def _pass(
    rows: RowBlocks, block: Float[Array, "p r"], number: int, passes: int, checkpoint: RowCheckpoint, group: Group,
    progress: Progress,
) -> tuple[Float[Array, "p r"], float, RowFile]:
    """Pass `number`, made or found whole: Z_j and ||V||_F^2, and Y_j of these rows."""
    step, name, p = checkpoint.load(f"krylov-{number}"), f"krylov-pass-{number}", rows.shape[1]
    left = checkpoint.rows(name, block.shape[1], block.dtype)
    whole = step is not None and left.checksum(rows.shape[0]) == int(step["crc"][0])
    if all_have(group, whole) and step is not None:
        kept = step["right"] if group.index == 0 else np.empty((p, block.shape[1]), block.dtype)
        return spread.laid(from_first(group, kept)), float(step["squared_norm"][0]), left
    done = fused_pass(rows, block, checkpoint=checkpoint, name=name,
                      label=f"pass {number} of at most {passes}", progress=progress)
    done.left.sync()
    right = group.total(spread.whole(done.right, p))
    squared_norm = group.total(np.array([done.squared_norm]))
    checkpoint.save(f"krylov-{number}", {
        "squared_norm": squared_norm, "crc": np.array([done.left.checksum(rows.shape[0])]),
        **({"right": right} if group.index == 0 else {})})
    return done.right if group.size == 1 else spread.laid(right), float(squared_norm[0]), done.left


def _factors(
    rows: RowBlocks, images: list[RowFile], basis: list[Float[Array, "p _"]], found: list[_Modes],
    squared_norm: float,
) -> Factors:
    modes = found[-1]
    if len(modes.squares) == 0:
        raise RankError("every row of the matrix is zero: no score differs from the mean score")
    left, right = with_positive_peaks(
        _left(images, rows.shape[0], modes), _right(basis[: len(images)], modes))
    return Factors(np.sqrt(modes.squares), left, spread.factor(right, rows.shape[1]), modes.residuals, squared_norm,
                   len(images), _truncation(found))


def sample_rows(n: int, width: int, passes: int, block_rows: int) -> int:
    """How many rows, in whole blocks, Q_1 is learnt from: 8 for each of its columns and at most an eighth of all; none
    where that is less than one a column. No more are held than what follows holds in columns."""
    sampled = min(n // 8, min(_SAMPLE, passes + 3) * width) // block_rows * block_rows
    return sampled if width > _RANDOM and sampled >= width else 0


def _start(
    rows: RowBlocks, width: int, passes: int, key: Key[Array, ""], dtype: np.dtype | type, checkpoint: RowCheckpoint,
    group: Group, progress: Progress,
) -> Float[Array, "p l"]:
    """Q_1: right singular directions of `sample_rows` of the rows, in blocks evenly spread, and random ones; process 0
    makes it for all of a group."""
    p = rows.shape[1]
    if group.index > 0:
        return spread.laid(from_first(group, np.empty((p, width), dtype)))
    start = _made_start(rows, width, passes, key, dtype, checkpoint, progress)
    return start if group.size == 1 else spread.laid(from_first(group, spread.whole(start, p)))


def _made_start(
    rows: RowBlocks, width: int, passes: int, key: Key[Array, ""], dtype: np.dtype | type, checkpoint: RowCheckpoint,
    progress: Progress,
) -> Float[Array, "p l"]:
    if (kept := checkpoint.load("krylov-start")) is not None:
        return spread.laid(kept["start"])
    (n, p), chance = rows.shape, width
    known: list[Float[Array, "q _"]] = []
    if (sampled := sample_rows(n, width, passes, rows.block_rows)) > 0:
        chosen = np.linspace(0, block_count(rows) - 1, sampled // rows.block_rows).astype(int)
        with suppress(RankError):  # the sample's rows are all zero
            sample = gram_svd(StoredRows(rows, chosen.tolist()), rank=width - _RANDOM, progress=progress)
            known = [spread.laid(sample.right)]
            chance -= sample.right.shape[1]
    drawn = project_out(spread.normal(key, p, chance, dtype), known)
    start = jnp.concatenate([*known, orthonormalise(drawn, known, noise=0.0, most=width)], axis=1)
    # kept whatever it is: with another limit on passes, later, another sample would be taken
    checkpoint.save("krylov-start", {"start": spread.whole(start, p)})
    return start


def _next_block(
    image: Float[Array, "q r"], outside: Float[Array, "q r"], basis: list[Float[Array, "q _"]], p: int,
    key: Key[Array, ""],
) -> Float[Array, "q t"]:
    """Q_{j+1}, orthonormal against [Q_1 ... Q_j], from Z_j and the part of it outside their span."""
    # each column of Z carries absolute errors of some eps times the longest
    noise = 4 * float(jnp.finfo(image.dtype).eps) * _longest(image)
    room = min(basis[0].shape[1], p - sum(part.shape[1] for part in basis))
    following = orthonormalise(outside, basis, noise=noise, most=room)
    if (lost := room - following.shape[1]) > 0:
        # one huge mode hides the others below its round-off; it is in the basis now, so fresh random
        # directions, orthogonal to it, see them
        fresh = project_out(spread.normal(key, p, lost, following.dtype), [*basis, following])
        fresh = orthonormalise(fresh, [*basis, following], noise=0.0, most=lost)
        following = jnp.concatenate([following, fresh], axis=1)
    return following


def _longest(columns: Float[Array, "q r"]) -> float:
    """The greatest length of a column; of Z it is about s_1^2, whose square may leave float32."""
    largest, even = _peak_and_length(columns)
    return float(largest) * float(even)


@jax.jit
def _peak_and_length(columns: Float[Array, "q r"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The largest number, and the greatest length of a column divided by it: compiled, or the quotients would be a
    second Z in memory."""
    largest = jnp.abs(columns).max()
    return largest, jnp.linalg.norm(columns / jnp.where(largest > 0, largest, 1), axis=0).max()


class _Modes(NamedTuple):
    squares: Float[np.ndarray, " k"]
    """s_i^2, descending"""
    coordinates: Float[np.ndarray, "q k"]
    """X with W = Q X and U = Y X diag(1 / s)"""
    residuals: Float[np.ndarray, " k"]


def _bordered(
    gram: Float[np.ndarray, "a a"], images: list[RowFile], n: int, group: Group
) -> Float[np.ndarray, "b b"]:
    """Y^T Y in float64 for Y = [Y_1 Y_2 ...], given that of Y's leading columns."""
    old = len(gram)
    border = np.zeros((old + images[-1].columns, images[-1].columns))
    with threads_for(2 * n * border.size):
        for _, part in _by_rows(images, n):
            border += part.T @ part[:, old:]
    border = group.total(border)
    return np.block([[gram, border[:old]], [border[:old].T, border[old:]]])


def _by_rows(images: list[RowFile], n: int) -> Iterator[tuple[int, Float[np.ndarray, "b q"]]]:
    """[Y_1 Y_2 ...] in float64 by groups of rows, each with its first row's number."""
    for start in range(0, n, _ROWS):
        parts = [image.read(start, min(n, start + _ROWS)) for image in images]
        yield start, np.concatenate(parts, axis=1, dtype=np.float64)


def _rayleigh_ritz(
    gram: Float[np.ndarray, "q q"], missed: list[Float[np.ndarray, "_ _"]], rank: int, eps: float, size: int
) -> _Modes:
    """At most `rank` modes, as many as stand above round-off.

    missed[j]: the Gram matrix M_j of the part of Z_j outside the basis, so that with X_j the rows of X that
    belong to block j, ||V^T u_i - s_i w_i|| = ||sum_j (outside part of Z_j) x_ji|| / s_i
    <= sum_j sqrt(x_ji^T M_j x_ji) / s_i: the last block's part decides until it is down to round-off.
    Keeping u_i and w_i in V's precision costs about eps s_i more, which is added.
    """
    with threads_for_eigenproblem(len(gram)):
        squares, vectors = np.linalg.eigh(gram)
    squares, vectors = squares[::-1], vectors[:, ::-1]
    count = min(rank, numerical_rank(squares, eps, size))
    squares, vectors = squares[:count], vectors[:, :count]
    lengths, start = np.zeros(count), 0
    for part in missed:
        coordinates = vectors[start : start + len(part)]
        lengths += np.sqrt(np.maximum(np.einsum("ik,ij,jk->k", coordinates, part, coordinates), 0.0))
        start += len(part)
    values = np.sqrt(squares)
    return _Modes(squares, vectors, (lengths / values + eps * values) / values[:1])


def _truncation(found: list[_Modes]) -> Float[np.ndarray, " k"]:
    """How far each s_i^2 still is below its limit, relative to it.

    The error of a Ritz value is its squared residual over a gap: that from s_i^2 to a mean of the eigenvalues that
    the span misses. The gap is learnt from the last step: with errors e' before it and e after it, the Ritz value
    rose by e' - e, and e / e' = (residual / residual')^2. After one pass, or where the value fell (round-off), the
    gap is taken as s_i^2 itself.
    """
    modes = found[-1]
    ratio = modes.residuals * np.sqrt(modes.squares[0] / modes.squares)
    bound = ratio**2
    if len(found) == 1 or (count := len(found[-2].squares)) == 0:
        return bound
    count = min(count, len(bound))
    before = found[-2]
    rise = modes.squares[:count] / before.squares[:count] - 1
    shrunk = np.minimum((modes.residuals[:count] / before.residuals[:count]) ** 2, 0.5)
    learnt = rise * shrunk / (1 - shrunk)
    bound[:count] = np.where(rise > 0, np.minimum(learnt, 1.0), bound[:count])
    return bound


def _left(images: list[RowFile], n: int, modes: _Modes) -> Float[np.ndarray, "n k"]:
    """U = Y X diag(1 / s), in float64 by groups of rows."""
    turn = modes.coordinates / np.sqrt(modes.squares)[None, :]
    left = np.empty((n, turn.shape[1]), images[0].dtype)
    with threads_for(2 * n * turn.size):
        for start, part in _by_rows(images, n):
            left[start : start + len(part)] = part @ turn
    return left


def _right(basis: list[Float[Array, "p _"]], modes: _Modes) -> Float[Array, "p k"]:
    """W = [Q_1 Q_2 ...] X."""
    start, right = 0, jnp.zeros((), basis[0].dtype)
    for part in basis:
        turn = jnp.asarray(modes.coordinates[start : start + part.shape[1]], part.dtype)
        right = right + jnp.matmul(part, turn, precision="highest")
        start += part.shape[1]
    return right
