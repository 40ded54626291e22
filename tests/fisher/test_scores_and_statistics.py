"""Scores against jax.grad one example at a time; streamed statistics against float64 over all at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfk.fisher.parameters import parameter_count, parameter_index
from nfk.fisher.scores import ScoreError, Scores
from nfk.fisher.statistics import block_moments, fisher_statistics, identity_statistics
from tests.fisher.networks import images, log_density, weights
from tests.linalg.test_rows import Memory


def test_scores_are_gradients_in_index_order():
    with jax.enable_x64(True):
        params, block = weights(0, np.float64), images(5, dtype=np.float64)
        rows = np.asarray(Scores(log_density, params)(block))
        index = parameter_index(params)
        assert [entry.path for entry in index] == ["conv/bias", "conv/kernel", "dense/bias", "dense/kernel", "unused"]
        for x, row in zip(block, rows, strict=True):
            gradient = jax.grad(log_density)(params, jnp.asarray(x), jax.random.key(0))
            for entry in index:
                leaf = gradient
                for part in entry.path.split("/"):
                    leaf = leaf[part]
                found = row[entry.offset : entry.offset + leaf.size].reshape(entry.shape)
                assert found == pytest.approx(np.asarray(leaf), rel=1e-10, abs=1e-13)
    assert rows.shape[1] == parameter_count(params)


def test_all_examples_share_one_draw():
    def noisy(params, x, key):
        return jnp.sum(params["w"] * (jnp.mean(x) + jax.random.normal(key, (3,))))

    scores = Scores(noisy, {"w": jnp.ones(3)}, jax.random.key(7))
    same = np.repeat(images(1), 4, axis=0)
    rows = np.asarray(scores(same))
    assert np.all(rows == rows[:1])
    assert np.array_equal(rows, scores(same))
    assert not np.array_equal(rows, Scores(noisy, {"w": jnp.ones(3)}, jax.random.key(8))(same))


class TestProbe:
    def test_accepts_a_deterministic_model(self):
        Scores(log_density, weights(0)).probe(images(3))

    def test_names_the_example_whose_score_is_not_finite(self):
        block = images(6)
        block[4, 0, 0, 0] = np.inf
        with pytest.raises(ScoreError, match=r"example 4: \d+ of 368 score entries are NaN or infinite"):
            Scores(log_density, weights(0)).probe(block)

    def test_refuses_a_model_that_changes_between_passes(self):
        calls = iter(np.arange(100, dtype=np.float32))

        def drifting(params, x, key):
            shape = jax.ShapeDtypeStruct((), np.float32)
            step = jax.pure_callback(lambda: next(calls), shape, vmap_method="sequential")
            return params["w"][0] * step * jnp.mean(x)

        with pytest.raises(ScoreError, match="two passes over the same examples differ by up to"):
            Scores(drifting, {"w": jnp.ones(1)}).probe(images(2))


class TestStatistics:
    def exact(self, samples):
        with jax.enable_x64(True):
            rows = np.asarray(Scores(log_density, weights(0, np.float64))(samples.astype(np.float64)))
        return rows.mean(axis=0), rows.var(axis=0)

    @pytest.mark.parametrize("block", [1, 7, 32, 100])
    def test_equal_those_of_all_scores_at_once(self, block):
        samples = images(50)
        found = fisher_statistics(Scores(log_density, weights(0)), samples, block=block)
        mean, variance = self.exact(samples)
        scale = np.max(np.abs(mean))
        assert found.mean_score == pytest.approx(mean, rel=1e-5, abs=1e-6 * scale)
        assert found.diagonal == pytest.approx(variance, rel=1e-4, abs=1e-9)
        assert found.count == 50

    def test_parameters_that_never_move_are_dead_and_weigh_nothing(self):
        found = fisher_statistics(Scores(log_density, weights(0)), images(50))
        assert found.dead == 3
        assert np.all(found.weight(1e-3)[-3:] == 0)
        assert np.all(found.weight(1e-3)[:-3] > 0)

    def test_damping_is_relative_to_the_mean_diagonal(self):
        found = fisher_statistics(Scores(log_density, weights(0)), images(50))
        alive = found.diagonal > 0
        for damping in (0.0, 1e-3, 10.0):
            damped = found.diagonal + damping * found.diagonal.mean()
            assert found.weight(damping)[alive] == pytest.approx(damped[alive] ** -0.5)
        with pytest.raises(ValueError, match=r"damping=-1.0 is below 0"):
            found.weight(-1.0)

    def test_resume_on_the_same_bits(self):
        scores, samples = Scores(log_density, weights(0)), images(50)
        undisturbed = fisher_statistics(scores, samples, block=8)
        memory = Memory(die_after=3)
        with pytest.raises(KeyboardInterrupt):
            fisher_statistics(scores, samples, block=8, checkpoint=memory)
        memory.die_after = None
        seen = []
        resumed = fisher_statistics(scores, samples, block=8, checkpoint=memory,
                                    progress=lambda done, total, what: seen.append(done))
        assert seen == [32, 40, 48, 50]
        assert np.array_equal(resumed.mean_score, undisturbed.mean_score)
        assert np.array_equal(resumed.diagonal, undisturbed.diagonal)

    def test_one_sample_is_refused(self):
        with pytest.raises(ValueError, match="1 samples give no variance"):
            fisher_statistics(Scores(log_density, weights(0)), images(1))

    def test_a_bad_sample_is_named_by_its_row(self):
        samples = images(20)
        samples[13] = np.nan
        with pytest.raises(ScoreError, match="example 13:"):
            fisher_statistics(Scores(log_density, weights(0)), samples, block=8)

    def test_identity_leaves_scores_as_they_are(self):
        assert np.all(identity_statistics(4).weight(0.0) == 1)


@given(sizes=st.lists(st.integers(1, 20), min_size=2, max_size=5), offset=st.sampled_from([0.0, 1e4, -1e6]),
       seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_moments_merge_in_any_cut_and_order(sizes, offset, seed):
    """A mean far from zero does not cost the variance its digits."""
    rng = np.random.default_rng(seed)
    rows = (rng.standard_normal((sum(sizes), 3)) + offset).astype(np.float32)
    parts = np.split(rows, np.cumsum(sizes)[:-1])
    rng.shuffle(parts) if len({len(part) for part in parts}) == 1 else None
    merged = block_moments(parts[0])
    for part in parts[1:]:
        merged = merged.merge(block_moments(part))
    exact = rows.astype(np.float64)
    assert merged.count == len(rows)
    assert merged.mean == pytest.approx(exact.mean(axis=0), rel=1e-12, abs=1e-12)
    assert merged.deviations == pytest.approx(np.sum((exact - exact.mean(axis=0)) ** 2, axis=0), rel=1e-9, abs=1e-9)
