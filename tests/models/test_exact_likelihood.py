"""What the families of exact likelihood share: its units, what it is measured against, gradients of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfk.fisher.scores import Scores
from nfk.fisher.whitening import Whitening
from nfk.models.exact_likelihood import appraise, bits_per_dimension, independent_pixels_log_likelihood
from tests.models.small_networks import examples, key, squares, start

NAMES = ["flow", "flow_colour", "pixelcnn", "pixelcnn_colour"]
every_family = pytest.mark.parametrize("name", NAMES)


def test_uniform_noise_has_eight_bits_a_dimension():
    assert bits_per_dimension(-12 * 12 * 3 * np.log(256), (12, 12, 3)) == pytest.approx(8)


def test_independent_pixels_are_told_by_their_histograms():
    images = np.array([7, 7, 0, 7, 255, 3, 255, 3], np.uint8).reshape(4, 1, 2, 1)
    held_out = np.array([7, 3, 0, 255], np.uint8).reshape(2, 1, 2, 1)
    # first pixel: 7, 0, 255, 255; second: 7, 7, 3, 3
    expected = np.log([1.5, 2.5, 1.5, 0.5]) - np.log(132)
    assert independent_pixels_log_likelihood(images, held_out) == pytest.approx(expected.sum() / 2)


def test_a_training_that_learnt_nothing_is_found():
    images, held_out = squares(64, 1, 0).images, squares(64, 1, 1).images
    trivial = independent_pixels_log_likelihood(images, held_out)

    def failed(log_likelihood, diversity):
        checks = appraise({"validation_log_likelihood": log_likelihood, "diversity": diversity}, images, held_out)
        return [check.name for check in checks if not check.passed]

    assert failed(trivial + 1, 0.6) == []
    assert failed(trivial - 1, 0.4) == ["validation log likelihood above independent pixels",
                                        "samples as diverse as images"]


@every_family
def test_training_raises_the_likelihood_above_that_of_independent_pixels(trained, name):
    result = trained(name)
    density = jax.jit(jax.vmap(result.model.log_density, (None, 0, None)))
    images = jnp.asarray(examples(name))
    after, before = (density(params, images, key(0)) for params in (result.model.params, start(name).params))
    assert (after > before).all()
    history, channels = result.history["validation_log_likelihood"], images.shape[-1]
    trivial = independent_pixels_log_likelihood(squares(256, channels, 0).images, squares(64, channels, 1).images)
    assert history[-1] > trivial > before.max()
    assert history[-1] > history[0]
    bits = bits_per_dimension(result.metrics["validation_log_likelihood"], result.model.image_shape)
    assert result.metrics["validation_bits_per_dimension"] == pytest.approx(bits, rel=1e-5)


@every_family
def test_scores_by_the_fast_path_are_plain_gradients(trained, name, x64):
    model, images = trained(name).model, jnp.asarray(examples(name), jnp.float64)
    scores = Scores(model.log_density, model.params).in_float64
    mean, weight = (jnp.asarray(np.random.default_rng(seed).uniform(0.5, 2, scores.size)) for seed in (0, 1))
    found = scores.whitened(images, Whitening(mean, weight, (), (), False))
    gradient = jax.jit(jax.grad(model.log_density))
    for row, image in zip(found, images, strict=True):
        plain = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradient(scores.params, image, key(0)))])
        expected = (plain - mean) * weight
        assert jnp.linalg.norm(row - expected) < 1e-10 * jnp.linalg.norm(expected)


@every_family
def test_black_and_white_images_have_finite_densities_and_scores(trained, name):
    model = trained(name).model
    scored = jax.jit(jax.value_and_grad(model.log_density))
    for level in (0, 1):
        image = jnp.full(model.image_shape, level, jnp.float32)
        for params in (model.params, jax.tree.map(lambda leaf: 3 * leaf, model.params)):
            value, score = scored(params, image, key(0))
            assert np.isfinite(value) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(score))
