"""PixelCNN++: what a pixel sees, probabilities that sum to one, samples of the distribution it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from nfk.family_params import PixelCnnParams
from nfk.models.pixelcnn import PixelCnn, draw_pixel, log_probability, logistic_log_probability, mixture
from tests.models.small_networks import examples, key


def untrained(image_shape, dtype="float64", seed=0, **settings):
    config = PixelCnnParams(**{"filters": 4, "blocks": 2, "mixtures": 3, **settings})
    model = PixelCnn.initial(config, image_shape, 2, key(seed))
    return model, jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), model.params)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_pixel_sees_those_before_it_and_no_other(x64, channels):
    shape = (4, 5, channels)
    model, params = untrained(shape)
    x = np.random.default_rng(0).uniform(-1, 1, shape)
    moved = np.repeat(x[None], 20 * channels, axis=0).reshape(20, channels, -1)
    for pixel in range(20):
        for channel in range(channels):
            moved[pixel, channel, pixel * channels + channel] += 0.5
    images = jnp.asarray(np.concatenate([x.reshape(1, -1), moved.reshape(-1, 20 * channels)]).reshape(-1, *shape))
    outputs, _ = jax.jit(model.network.pixels.apply)({"params": params}, images)
    change = np.abs(outputs[1:] - outputs[:1]).max(axis=-1).reshape(20, channels, 20).max(axis=1)
    before = np.arange(20)[:, None] < np.arange(20)[None, :]
    assert (change[~before] == 0).all()
    assert (change[np.arange(19), np.arange(1, 20)][np.arange(1, 20) % 5 != 0] > 0).all(), "the pixel to the left"
    assert (change[np.arange(15), np.arange(5, 20)] > 0).all(), "the pixel above"
    assert (change[np.arange(1, 15), np.arange(5, 19)][np.arange(1, 15) % 5 != 0] > 0).all(), "above on the right"
    assert change[0, 19] > 0, "the farthest corner"


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


def test_probabilities_of_all_two_pixel_images_sum_to_one(x64):
    model, params = untrained((1, 2, 1))
    params["output"]["kernel"] *= 5
    levels = np.arange(256) / 255
    images = jnp.asarray(np.stack(np.meshgrid(levels, levels, indexing="ij"), axis=-1).reshape(-1, 1, 2, 1))
    log_p, _ = jax.jit(model.network.log_likelihood)(params, images)
    assert jnp.exp(log_p).sum() == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("name", ["pixelcnn", "pixelcnn_colour"])
def test_samples_are_drawn_from_what_the_whole_network_says(trained, name):
    """Each pixel again, with its key, from the network's outputs at the finished images."""
    model = trained(name).model
    height, width, channels = model.image_shape
    samples = model.network.draw(model.params, key(3), 256)
    np.testing.assert_allclose(samples * 255, jnp.round(samples * 255), atol=1e-4)
    outputs, _ = jax.jit(model.network.pixels.apply)({"params": model.params}, 2 * samples - 1)
    again = jax.jit(lambda pixel, key: draw_pixel(mixture(pixel, channels), key))
    row_keys = jax.random.split(key(3), height)
    agree = 0.0
    for row in range(0, height, 3):
        for column, pixel_key in enumerate(jax.random.split(row_keys[row], width)):
            x = (again(outputs[:, row, column], pixel_key) + 1) / 2
            agree += np.mean(np.abs(x - samples[:, row, column]) < 1e-5) / (width * len(range(0, height, 3)))
    assert agree > 0.999  # round-off may turn a level's last bit


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


def test_samples_of_a_network_trained_on_two_images_are_these_as_often():
    first = np.zeros((4, 4, 1), np.uint8)
    first[1:3, 1:3] = 200
    images = np.stack([first] * 48 + [255 - first] * 16)
    labels = np.zeros(64, np.int32)
    config = PixelCnnParams(filters=12, blocks=1, mixtures=2, batch=32, epochs=600, learning_rate=1e-2, ema=0.9)
    start = PixelCnn.initial(config, (4, 4, 1), 1, key(0))
    model = start.train(images, labels, (images, labels), key(1)).model
    samples = model.sample(key(2), 1024) * 255
    which = [np.abs(samples - image).max(axis=(1, 2, 3)) < 8 for image in (first, 255 - first.astype(int))]
    assert np.mean(which[0] | which[1]) > 0.95
    assert np.mean(which[0]) == pytest.approx(0.75, abs=0.06)


def test_intensities_between_levels_are_centres_of_their_own_bins(trained):
    """No rounding: the density moves smoothly from one level to the next."""
    model = trained("pixelcnn").model
    image = examples("pixelcnn")[0]
    inside = np.clip(image, 0.1, 0.9)
    value = jax.jit(model.log_density)
    here, between, there = (value(model.params, jnp.asarray(inside + shift / 255, jnp.float32), key(0))
                            for shift in (0, 0.5, 1))
    assert min(here, there) < between < max(here, there)
