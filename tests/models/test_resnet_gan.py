"""The residual GAN: its sizes, its blocks by hand, its settings, its Fisher vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate

from nfk.family_params import ResnetGanParams
from nfk.fisher.parameters import flatten_batch
from nfk.fisher.scores import Scores
from nfk.fisher.whitening import Whitening
from nfk.models.adversarial import Adam
from nfk.models.families import initial
from nfk.models.resnet_gan import Generator, ResnetGan
from nfk.training import TrainingError
from tests.models.small_networks import CLASSES, examples, key, squares, start


@pytest.mark.parametrize("width, image_shape, parameters", [
    (256, (32, 32, 3), 5_915_393),  # the paper's "5.9M"
    (16, (28, 28, 1), 23_537),
])
def test_discriminator_has_the_parameters_of_its_layers(width, image_shape, parameters):
    config = ResnetGanParams(width=width)
    params = jax.eval_shape(lambda: ResnetGan.initial(config, image_shape, 10, key(0)).params)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters


@pytest.mark.parametrize("image_shape", [(28, 28, 1), (32, 32, 3), (9, 14, 2), (4, 4, 1)])
def test_generator_makes_images_of_any_size(image_shape):
    generator = Generator(4, image_shape)
    made = jax.eval_shape(lambda z: generator.init_with_output(key(0), z)[0], jnp.zeros((5, 8)))
    assert made.shape == (5, *image_shape)


def test_images_too_small_to_halve_twice_are_refused():
    with pytest.raises(TrainingError, match=r"resnet_gan on images of \(3, 8\) pixels: needs 4 x 4 or more"):
        initial(ResnetGanParams(), (3, 8, 1), CLASSES, key(0))


def test_logit_is_that_of_the_blocks_written_out(trained):
    """In float64, on NumPy and SciPy alone, with each kernel divided by its largest singular value."""
    model = trained("resnet_gan").model
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), model.params)

    def affine(layer):
        kernel, bias = params[layer]["kernel"], params[layer]["bias"]
        return kernel / np.linalg.norm(kernel.reshape(-1, kernel.shape[-1]), 2), bias

    def convolved(x, layer):
        kernel, bias = affine(layer)
        return np.stack([correlate(np.pad(x, ((1, 1), (1, 1), (0, 0))), kernel[..., out], "valid")[..., 0] + bias[out]
                         for out in range(len(bias))], axis=-1)

    image = examples("resnet_gan")[0]
    x = 2 * image.astype(np.float64) - 1
    for block in range(4):
        inner = convolved(np.maximum(x, 0) if block else x, f"block_{block}_conv_0")
        x = convolved(np.maximum(inner, 0), f"block_{block}_conv_1") + convolved(x, f"block_{block}_shortcut")
        if block < 2:
            side = len(x) // 2
            x = x.reshape(side, 2, side, 2, -1).mean(axis=(1, 3))
    kernel, bias = affine("dense")
    expected = np.maximum(x, 0).mean(axis=(0, 1)) @ kernel[:, 0] + bias[0]
    found = jax.jit(model.log_density)(model.params, jnp.asarray(image), key(0))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_score_has_no_part_along_any_kernel(scored, trained):
    """sigma follows the kernel in the gradient (u and v do not), so s is of degree 0 in each (Euler)."""
    score, params = scored("resnet_gan", "float64").score, trained("resnet_gan").model.params
    for layer, gradient in score.items():
        kernel = np.asarray(params[layer]["kernel"], np.float64)
        along = np.vdot(gradient["kernel"], kernel)
        assert abs(along) < 1e-6 * np.linalg.norm(gradient["kernel"]) * np.linalg.norm(kernel), layer
        assert np.linalg.norm(gradient["kernel"]) > 0


def test_fisher_vectors_are_plain_gradients_one_by_one_in_float64(trained):
    model, random = trained("resnet_gan").model, np.random.default_rng(0)
    with jax.enable_x64(True):
        scores = Scores(model.log_density, model.params).in_float64
        mean, weight = (jnp.asarray(random.uniform(0.5, 2, scores.size)) for _ in range(2))
        images = jnp.asarray(examples("resnet_gan"), jnp.float64)
        found = scores.whitened(images, Whitening(mean, weight, (), (), False))
        plain = jax.jit(jax.grad(model.log_density))
        for row, image in zip(found, images, strict=True):
            gradient = flatten_batch(jax.tree.map(lambda leaf: leaf[None], plain(scores.params, image, scores.key)))[0]
            expected = (gradient - mean) * weight
            assert np.linalg.norm(row - expected) < 1e-10 * np.linalg.norm(expected)


def test_a_colour_gan_trains_by_hinge_with_a_penalty():
    config = ResnetGanParams(width=2, generator_width=2, latent=4, epochs=2, loss="hinge", penalty=0.5,
                             learning_rate=3e-3, generator_learning_rate=1e-3)
    model = initial(config, (12, 12, 3), CLASSES, key(0))
    assert model.adversaries.discriminator_adam == Adam(3e-3, 0.0, 0.9)
    assert model.adversaries.generator_adam == Adam(1e-3, 0.0, 0.9)
    result = model.train(*squares(64, 3, 0), tuple(squares(32, 3, 1)), key(1))
    assert result.metrics["validation_hinge_loss"] > 0
    assert result.history["generator_movement"][1] > 1e-6
    samples = result.model.sample(key(2), 5)
    assert samples.shape == (5, 12, 12, 3) and samples.dtype == np.float32
    assert 0 <= samples.min() < samples.max() <= 1


def test_least_squares_is_the_default_loss():
    assert start("resnet_gan").adversaries.loss.name == ResnetGanParams().loss == "least_squares"
