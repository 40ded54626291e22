"""Numbers that go wrong: the right answer or a refusal in one line, never NaN or infinity in an output."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from nfk import NeuralFisherKernel
from nfk.fisher.scores import ScoreError
from nfk.linalg.factors import RankError

N, P, RANK = 24, 12, 3
STRATEGIES = ("explicit", "stream")
ONES = {"w": jnp.ones(P, jnp.float32)}


def examples(n: int = N, p: int = P) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, p)).astype(np.float32)


def linear(scale):
    """Scores scale * x."""
    factors = jnp.asarray(np.broadcast_to(np.asarray(scale, np.float32), P))
    return lambda params, x, key: jnp.sum(factors.astype(x.dtype) * params["w"] * x)


def fitted(function, params, x, strategy, **options):
    estimator = NeuralFisherKernel(function, params, strategy=strategy, **{
        "rank": RANK, "oversampling": 4, "passes": 8, "tolerance": 1e-3, "block": 8, **options}).fit(x)
    found = [estimator.transform(x), estimator.singular_values_, estimator.explained_variance_ratio_,
             estimator.residuals_, estimator.eigenvalue_errors_, estimator.mean_score_, estimator.fisher_diagonal_,
             np.asarray(estimator.right_), estimator.left_]
    assert all(np.isfinite(array).all() for array in found)
    return estimator


def refused(error, match, function, params, x, strategy, **options):
    with pytest.raises(error, match=match) as caught:
        fitted(function, params, x, strategy, **options)
    assert len(str(caught.value).splitlines()) == 1


def exact(scores: np.ndarray, damping: float = 1e-3) -> np.ndarray:
    """Singular values of the Fisher vectors, float64."""
    scores = scores.astype(np.float64)
    centred = scores - scores.mean(axis=0)
    diagonal = (centred**2).mean(axis=0)
    return np.linalg.svd(centred / np.sqrt(diagonal + damping * diagonal.mean()), compute_uv=False)


@pytest.mark.parametrize("strategy", STRATEGIES)
class TestEachStrategy:
    def test_one_weight_is_nan(self, strategy):
        weights = {"w": ONES["w"].at[3].set(np.nan)}
        refused(ScoreError, "example 0: 1 of 12 score entries are NaN or infinite",
                lambda params, x, key: jnp.sum(jnp.tanh(params["w"] * x)), weights, examples(), strategy)

    def test_the_potential_of_one_image_is_infinite(self, strategy):
        x = examples()
        x[13] = 0
        refused(ScoreError, "example 13: 12 of 12 score entries are NaN",
                lambda params, x, key: jnp.log(jnp.sum((params["w"] * x) ** 2)), ONES, x, strategy)

    def test_a_dead_network(self, strategy):
        refused(RankError, "every row of the matrix is zero: no score differs from the mean score",
                lambda params, x, key: 0 * jnp.sum(params["w"]) * jnp.sum(x), ONES, examples(), strategy)

    def test_all_images_are_one(self, strategy):
        refused(RankError, "every row of the matrix is zero", linear(1), ONES, np.repeat(examples(1), N, axis=0),
                strategy)

    def test_two_images_many_times(self, strategy):
        x = np.repeat(examples(2), N // 2, axis=0)
        found = fitted(linear(1), ONES, x, strategy)
        assert found.singular_values_ == pytest.approx(exact(x)[:1], rel=1e-6)
        assert found.explained_variance_ratio_[-1] == pytest.approx(1, abs=1e-6)

    def test_fewer_directions_than_asked(self, strategy):
        x = (examples(N, 2) @ examples(2)).astype(np.float32)
        assert fitted(linear(1), ONES, x, strategy).singular_values_ == pytest.approx(exact(x)[:2], rel=1e-5)

    def test_scores_over_twelve_orders_of_magnitude(self, strategy):
        scale = np.logspace(-6, 6, P).astype(np.float32)
        found = fitted(linear(scale), ONES, examples(), strategy)
        assert found.singular_values_ == pytest.approx(exact(scale * examples())[:RANK], rel=1e-5)

    @pytest.mark.parametrize("size", [1e-30, 1e25])
    def test_scores_whose_squares_leave_float32(self, strategy, size):
        """Whitened, they are like any other; a tangent kernel of them is none in float32."""
        found = fitted(linear(size), ONES, examples(), strategy, passes=12)
        assert found.singular_values_ == pytest.approx(exact(examples())[:RANK], rel=1e-5)
        refused(ScoreError, r"rows of the matrix are as long as \d.*, where float32 holds their squares; multiply the",
                linear(size), ONES, examples(), strategy, kernel="ntk")

    @pytest.mark.parametrize("size", [1e-12, 1e12])
    def test_a_tangent_kernel_that_float32_just_holds(self, strategy, size):
        found = fitted(linear(size), ONES, examples(), strategy, kernel="ntk", passes=12)
        values = np.linalg.svd(np.float32(size).astype(np.float64) * examples(), compute_uv=False)
        assert found.singular_values_ == pytest.approx(values[:RANK], rel=1e-5)


class TestSizes:
    def test_fewer_images_than_the_rank(self):
        refused(RankError, r"rank=3 is not in 1\.\.min\(n, p\)=2; lower it", linear(1), ONES, examples(2), "auto")

    def test_fewer_parameters_than_the_rank(self):
        refused(RankError, r"rank=3 is not in 1\.\.min\(n, p\)=2; lower it",
                lambda params, x, key: jnp.sum(params["w"] * x), {"w": jnp.ones(2)}, examples(N, 2), "auto")

    def test_one_image_has_no_variance(self):
        refused(ValueError, "1 samples give no variance; give at least 2", linear(1), ONES, examples(1), "auto")

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_one_image_has_a_tangent_kernel(self, strategy):
        found = fitted(linear(1), ONES, examples(1), strategy, rank=1, kernel="ntk")
        assert found.singular_values_ == pytest.approx([np.linalg.norm(examples(1))], rel=1e-6)

    def test_one_image_with_samples_of_the_model(self):
        estimator = NeuralFisherKernel(linear(1), ONES, rank=1).fit(examples(1), model_samples=examples())
        assert np.isfinite(estimator.transform(examples(1))).all()
        assert estimator.singular_values_[0] > 0
