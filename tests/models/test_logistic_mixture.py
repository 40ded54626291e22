"""Mixtures of discretised logistics: probabilities that sum to one, whatever the outputs; levels drawn as they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from nfk.models.logistic_mixture import draw_pixel, log_probability, logistic_log_probability, mixture
from tests.models.small_networks import key


def test_a_channel_sees_those_before_it_in_its_pixel(x64):
    random = np.random.default_rng(0)
    pixel, x = mixture(jnp.asarray(random.normal(size=(1, 40))), 3), random.uniform(-1, 1, (1, 3))
    found = log_probability(pixel, jnp.asarray(x))
    for channel in range(3):
        other = x.copy()
        other[0, channel] *= -1
        changed = (log_probability(pixel, jnp.asarray(other)) != found)[0]
        assert changed.tolist() == [False] * channel + [True] * (3 - channel)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_probabilities_of_the_256_levels_sum_to_one_given_any_channels_before(x64, channels, size):
    random = np.random.default_rng(0)
    outputs = size * random.normal(size=(50, 1, {1: 12, 3: 40}[channels]))
    pixels = mixture(jnp.asarray(np.repeat(outputs, 256, axis=1)), channels)
    levels = np.arange(256) / 127.5 - 1
    for channel in range(channels):
        x = np.repeat(random.integers(0, 256, (50, 1, channels)) / 127.5 - 1, 256, axis=1)
        x[:, :, channel] = levels[None, :]
        found = log_probability(pixels, jnp.asarray(x))[..., channel]
        np.testing.assert_allclose(jnp.exp(found).sum(axis=1), np.ones(50), rtol=0, atol=1e-10)


def test_logistic_bins_are_differences_of_its_distribution_function(x64):
    x = jnp.asarray(np.arange(256) / 127.5 - 1)
    edges = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 127.5 - 1, [np.inf]])
    for mean, scale in [(0.1, 0.05), (-1.3, 0.5), (0.99, 0.01)]:
        expected = np.log(np.diff(stats.logistic.cdf(edges, mean, scale)))
        found = logistic_log_probability(x, jnp.full(256, mean), jnp.full(256, np.log(scale)))
        resolved = expected > -20
        assert resolved.sum() > 25
        np.testing.assert_allclose(found[resolved], expected[resolved], rtol=0, atol=1e-6)


def test_a_tail_falls_with_the_slope_of_the_scale_however_far():
    """log p(bin) = -(distance) / scale + constant, where float32's distribution function is 0 or 1."""
    x = jnp.array([-0.5, -0.25, 0.25, 0.5], jnp.float32)
    log_p = logistic_log_probability(x, jnp.zeros(4), jnp.full(4, -6.0))
    np.testing.assert_allclose(log_p[0] - log_p[1], -0.25 * np.exp(6), rtol=1e-5)
    np.testing.assert_allclose(log_p[3] - log_p[2], -0.25 * np.exp(6), rtol=1e-5)


@pytest.mark.parametrize("size", [1e2, 1e4, 1e8])
@pytest.mark.parametrize("channels", [1, 3])
def test_extreme_outputs_give_finite_likelihoods_and_gradients(size, channels):
    outputs = size * np.random.default_rng(0).normal(size=(200, {1: 12, 3: 40}[channels]))
    likelihood = jax.jit(jax.value_and_grad(lambda outputs, x: log_probability(mixture(outputs, channels), x).sum()))
    for level in (0, 100, 255):
        x = jnp.full((200, channels), level / 127.5 - 1, jnp.float32)
        value, gradient = likelihood(jnp.asarray(outputs, jnp.float32), x)
        assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_drawn_levels_have_the_frequencies_of_their_probabilities(channels):
    """Each channel given those drawn before it: its distribution function there, at random within its level's step,
    is uniform."""
    random = np.random.default_rng(1)
    outputs = jnp.asarray(random.normal(size=(1, {1: 12, 3: 40}[channels])), jnp.float32)
    drawn = np.asarray(draw_pixel(mixture(jnp.repeat(outputs, 2000, axis=0), channels), key(0)))
    pixels = mixture(jnp.broadcast_to(outputs[:, None], (2000, 256, outputs.shape[1])), channels)
    for channel in range(channels):
        x = np.repeat(drawn[:, None], 256, axis=1)
        x[:, :, channel] = np.arange(256) / 127.5 - 1
        p = np.exp(np.asarray(log_probability(pixels, jnp.asarray(x))[..., channel], np.float64))
        level = np.round((drawn[:, channel] + 1) * 127.5).astype(int)[:, None]
        reached, step = (np.take_along_axis(a, level, axis=1)[:, 0] for a in (np.cumsum(p, axis=1), p))
        assert stats.kstest(reached - random.uniform(size=2000) * step, "uniform").pvalue > 1e-3
