"""Numbers that go wrong, by every strategy and every whitening: the right answer or a refusal in one line.

Right is what NumPy's SVD of V in float64 gives, V by its definition (`tests/faults/scored.py`).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfk.fisher import strategies
from nfk.fisher.embedding import embed
from nfk.fisher.scores import ScoreError, Scores
from nfk.fisher.statistics import identity_statistics
from nfk.fisher.strategies import STRATEGIES
from nfk.fisher.vectors import FisherVectors
from nfk.linalg.factors import RankError
from nfk.linalg.rows import RangeError
from tests.faults.scored import BLOCK, FISHER, INPUTS, KINDS, OUTPUTS, TANGENT, truth, vectors

N, RANK = 32, 3
FOUND, CENTRED_LATE = 1e-5, 1e-4
"""Of the largest singular value: what float32 leaves of any other; and where the mean is taken from products (`jvp`)"""
IN_FLOAT64 = ("explicit", "gram", "panels", "cogram")
"""Strategies that sum squares in it"""


def plain(n: int = N, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, INPUTS + OUTPUTS)).astype(np.float32)


def times(size, columns=slice(INPUTS, None), rows=slice(None)) -> np.ndarray:
    """Scores as many times as large, by examples or by outputs."""
    x = plain()
    x[rows, columns] *= np.asarray(size, np.float32)
    return x


def one_direction() -> np.ndarray:
    x = np.repeat(plain(1), N, axis=0)
    x[:, :INPUTS] *= np.linspace(-1, 1, N, dtype=np.float32)[:, None]
    return x


def zero_at_first() -> np.ndarray:
    x = plain()
    x[:BLOCK] = 0
    return x


RIGHT = {
    "plain": (plain(), None),
    "two images many times": (np.repeat(plain(2), N // 2, axis=0), None),
    "one image many times, samples": (np.repeat(plain(1), N, axis=0), plain()),
    "one direction": (one_direction(), None),
    "orders by input": (times(np.logspace(-6, 6, INPUTS), slice(0, INPUTS)), None),
    "orders by output": (times(np.logspace(-6, 6, OUTPUTS)), None),
    "orders by image": (times(np.logspace(-6, 6, N)[:, None]), None),
    "orders by image, samples": (times(np.logspace(-6, 6, N)[:, None]), plain(seed=1)),
    "zero at first": (zero_at_first(), None),
    "as small as squares may be": (times(1e-12), None),
    "as large": (times(1e12), None),
    "tiny at first": (times(1e-30, rows=slice(0, BLOCK)), None),
}
OUT_OF_RANGE = {"squares below float32": (times(1e-30), None), "squares above": (times(1e25), None)}
ALONE = {
    "one huge": (times(1e25, rows=slice(28, 29)), None),
    "one far from the samples": (times(1e25, rows=slice(28, 29)), plain(seed=1)),
    "float32's end": (times(1e36), None),
}
CASES = RIGHT | OUT_OF_RANGE | ALONE
"""Examples, and the model's samples where these are others"""


@functools.cache
def made(name: str, kind: str) -> FisherVectors:
    examples, samples = CASES[name]
    return vectors(examples, KINDS[kind], samples)


@functools.cache
def known(name: str, kind: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Singular values, embeddings' Gram matrix where mode RANK stands apart, and ||V||^2."""
    examples, samples = CASES[name]
    left, values, _ = np.linalg.svd(truth(examples, KINDS[kind], samples), full_matrices=False)
    image = left[:, :RANK] * values[:RANK]
    return values, image @ image.T, float(np.sum(values**2))


def decomposed(rows: FisherVectors, strategy: str, rank: int = RANK):
    found = strategies.decompose(rows, strategy, rank=rank, key=jax.random.key(0), oversampling=4, passes=12,
                                 tolerance=1e-6)
    for array in (found.singular_values, found.left, np.asarray(found.right), found.residuals, found.errors,
                  found.explained_variance, found.squared_norm):
        assert np.isfinite(array).all()
    return found


def right(name: str, kind: str, strategy: str) -> None:
    """Singular values, explained variance, embeddings and their own say on their error are those of the truth."""
    rows, (values, gram, norm) = made(name, kind), known(name, kind)
    found, room = decomposed(rows, strategy), values[0] * (CENTRED_LATE if strategy == "jvp" else FOUND)
    count = len(found.singular_values)
    assert np.count_nonzero(values[:RANK] > room) <= count <= RANK
    assert found.singular_values == pytest.approx(values[:count], abs=room, rel=0)
    assert found.squared_norm == pytest.approx(norm, rel=1e-4)
    assert found.explained_variance == pytest.approx(np.cumsum(values**2)[:count] / norm, abs=1e-4)
    if len(values) == RANK or values[RANK - 1] - values[RANK] > 0.01 * values[0] or values[RANK] < room:
        image = embed(rows, found.right).astype(np.float64)
        assert np.isfinite(image).all()
        assert np.abs(image @ image.T - gram).max() < 1e-4 * values[0] ** 2
    assert found.residuals.max() < 1e-4


def refused(error, match, rows: FisherVectors, strategy: str, rank: int = RANK) -> None:
    with pytest.raises(error, match=match) as caught:
        decomposed(rows, strategy, rank)
    assert type(caught.value) is error and len(str(caught.value).splitlines()) == 1


def each(kinds):
    """Every strategy with every kind. `jvp` has no rows of several outputs, and compiles for each: it has three."""
    return pytest.mark.parametrize("kind, strategy", [
        (kind, strategy) for kind in kinds for strategy in STRATEGIES
        if strategy != "jvp" or kind in ("diagonal", "kronecker-unit", "tangent")])


@pytest.mark.parametrize("name", RIGHT)
@each(KINDS)
def test_the_right_answer(name, kind, strategy):
    right(name, kind, strategy)


@pytest.mark.parametrize("name", OUT_OF_RANGE)
@each(KINDS)
def test_squares_that_leave_float32(name, kind, strategy):
    """Whitened, or of unit length, they are like any other."""
    if kind in FISHER or kind == "tangent-unit":
        right(name, kind, strategy)
    else:
        refused(ScoreError, r"rows of the matrix are as long as \d.*, where float32 holds their squares; multiply the",
                made(name, kind), strategy)


@each(["tangent", "tangent-all", "tangent-trace"])
def test_one_image_whose_square_leaves_float32_after_others(kind, strategy):
    """What sums squares in float64 finds the truth; the others say which rows they are, where they know."""
    if strategy in IN_FLOAT64:
        right("one huge", kind, strategy)
    else:
        refused(RangeError, r"rows \d+ to \d+ of the matrix: float32 cannot hold the squares of some.*; look at those",
                made("one huge", kind), strategy)


def test_rows_of_unit_length_from_scores_at_float32_s_end():
    """The reference divides by their lengths what it carries through the network."""
    right("float32's end", "tangent-unit", "jvp")


@each(["diagonal", "kronecker"])
def test_one_image_far_beyond_the_samples(kind, strategy):
    if strategy in IN_FLOAT64:
        right("one far from the samples", kind, strategy)
    else:
        refused(RangeError, r"rows \d+ to \d+ of the matrix: float32 cannot hold the squares",
                made("one far from the samples", kind), strategy)


@each([kind for kind in KINDS if KINDS[kind].outputs is None])
def test_a_weight_that_is_nan(kind, strategy):
    """Scores of a network whose statistics were made when its weights were numbers."""
    rows, chosen = made("plain", kind), KINDS[kind]
    params = {"b": jnp.ones(OUTPUTS), "w": jnp.ones((INPUTS, OUTPUTS)).at[1, 2].set(jnp.nan)}
    broken = Scores(lambda params, x, key: jnp.tanh(x[:INPUTS] @ params["w"] + params["b"]) @ x[INPUTS:], params)
    refused(ScoreError, "example 0: 5 of 15 score entries are NaN or infinite|example 0: 15 of 15",
            FisherVectors(broken, plain(), rows.statistics, damping=chosen.damping, unit_rows=chosen.unit_rows,
                          block_rows=BLOCK), strategy)


@each(KINDS)
def test_the_score_of_one_image_is_infinite(kind, strategy):
    """It comes after the block that a fit looks at first, and not among the samples."""
    x = plain()
    x[29, INPUTS:] = np.inf
    refused(ScoreError, "example 29: .* score entries are NaN or infinite",
            vectors(x, KINDS[kind], samples=plain(seed=1)), strategy)


@each(KINDS)
def test_a_dead_network(kind, strategy):
    refused(RankError, "every row of the matrix is zero: no score differs from the mean score",
            vectors(times(0.0), KINDS[kind]), strategy)


@each(FISHER)
def test_all_images_are_one(kind, strategy):
    x = np.repeat(plain(1), N, axis=0)
    refused(RankError, "every row of the matrix is zero", vectors(x, KINDS[kind]), strategy)


@each(FISHER)
def test_all_samples_are_one(kind, strategy):
    """No score ever moved there: each weighs nothing, wherever it does move."""
    refused(RankError, "every row of the matrix is zero",
            vectors(plain(), KINDS[kind], samples=np.repeat(plain(1), N, axis=0)), strategy)


@each([kind for kind in KINDS if kind != "tangent-all"])
def test_fewer_images_than_the_rank(kind, strategy):
    refused(RankError, r"rank=3 is not in 1\.\.min\(n, p\)=2; lower it", vectors(plain(2), KINDS[kind]), strategy)


@pytest.mark.parametrize("kind", FISHER)
def test_one_image_has_no_variance(kind):
    with pytest.raises(ValueError, match="1 samples give no variance; give at least 2"):
        vectors(plain(1), KINDS[kind])


@each(KINDS)
def test_one_image(kind, strategy):
    """Of a tangent kernel, and with samples of the model."""
    x, samples = plain(1), None if kind in TANGENT else plain()
    values = np.linalg.svd(truth(x, KINDS[kind], samples), compute_uv=False)
    found = decomposed(vectors(x, KINDS[kind], samples), strategy, rank=1)
    assert found.singular_values == pytest.approx(values[:1], rel=1e-5)


@each(["diagonal", "kronecker", "tangent"])
def test_fewer_parameters_than_the_rank(kind, strategy):
    rows = made("plain", kind)
    narrow = Scores(lambda params, x, key: x[:2] @ params, jnp.ones(2))
    refused(RankError, r"rank=3 is not in 1\.\.min\(n, p\)=2; lower it",
            FisherVectors(narrow, plain(), identity_statistics(2), block_rows=BLOCK), strategy)
    assert rows.shape[1] > RANK
