"""Noise in a potential: none, shared by all images, and each image's own, the same in every pass."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfk.models.fixed_noise import fixed_noise
from nfk.studies.noise import content, own_noise, shared_noise


class Noisy:
    """s(x) = theta . mean of noise + sum of x; 100 theta without noise."""

    noise_shape = (3,)

    def log_density_given(self, params, x, noise):
        return x.sum() + (100 * params.sum() if noise is None else noise.mean(axis=0) @ params)


THETA = jnp.asarray([1.0, 10.0, 100.0])
IMAGES = jnp.asarray(np.random.default_rng(0).random((40, 4, 4, 1)), jnp.float32)


def densities(log_density, seed=0):
    return np.asarray(jax.vmap(log_density, (None, 0, None))(THETA, IMAGES, jax.random.key(seed)))


def test_shared_noise_is_one_and_the_same_for_all_images():
    sums = np.asarray(IMAGES.sum(axis=(1, 2, 3)))
    expected = fixed_noise((5, 3)).mean(axis=0) @ np.asarray(THETA)
    np.testing.assert_allclose(densities(shared_noise(Noisy(), 5)) - sums, expected, rtol=1e-4)
    np.testing.assert_allclose(densities(shared_noise(Noisy(), 0)) - sums, 11_100, rtol=1e-4)


def test_own_noise_differs_by_image_and_not_by_pass_or_place():
    found = densities(own_noise(Noisy(), 2)) - np.asarray(IMAGES.sum(axis=(1, 2, 3)))
    assert len(np.unique(found.round(3))) == len(found)
    again = jax.jit(own_noise(Noisy(), 2))(THETA, IMAGES[7], jax.random.key(0)) - IMAGES[7].sum()
    assert again == pytest.approx(found[7], abs=1e-3)
    # mean over images: about 0 with deviation |theta| / sqrt(2 draws) / sqrt(40 images)
    assert abs(found.mean()) < 4 * float(jnp.linalg.norm(THETA)) / np.sqrt(80)
    assert found.std() == pytest.approx(float(jnp.linalg.norm(THETA)) / np.sqrt(2), rel=0.4)


def test_images_of_the_same_pixels_in_other_places_have_other_contents():
    image = IMAGES[0]
    others = [image, image[::-1], image.swapaxes(0, 1), image.at[2, 1, 0].add(1e-6), jnp.zeros_like(image)]
    assert len({int(content(each)) for each in others}) == 5
