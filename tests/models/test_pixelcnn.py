"""PixelCNN++: what a pixel sees, probabilities that sum to one, samples of the distribution it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfk.family_params import PixelCnnParams
from nfk.models.logistic_mixture import draw_pixel, mixture
from nfk.models.pixelcnn import PixelCnn
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


def test_samples_of_a_network_trained_on_two_images_are_these_as_often():
    first = np.zeros((4, 4, 1), np.uint8)
    first[1:3, 1:3] = 200
    images = np.stack([first] * 48 + [255 - first] * 16)
    labels = np.zeros(64, np.int32)
    config = PixelCnnParams(filters=12, blocks=1, mixtures=2, batch=32, epochs=1000, learning_rate=1e-2, ema=0.9)
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
