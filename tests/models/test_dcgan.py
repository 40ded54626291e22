"""DCGAN: its sizes, its loss, its spectral norm, its generator's average, its checks."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfk.family_params import DcganParams
from nfk.models import dcgan
from nfk.models.dcgan import Dcgan, Generator, appraise, hinge_loss, mean_distance
from nfk.training import averaged
from tests.models.small_networks import CONFIGS, key, squares, start


@pytest.mark.parametrize("width, image_shape, parameters", [
    (10, (28, 28, 1), 16_871),  # the paper's "17K"
    (64, (28, 28, 1), 660_929),
    (64, (32, 32, 3), 662_977),
])
def test_discriminator_has_the_parameters_of_its_layers(width, image_shape, parameters):
    params = jax.eval_shape(lambda: Dcgan.initial(DcganParams(width=width), image_shape, 10, key(0)).params)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters


@pytest.mark.parametrize("image_shape", [(28, 28, 1), (32, 32, 3), (9, 14, 2)])
def test_generator_makes_images_of_any_size(image_shape):
    generator = Generator(4, image_shape)
    made = jax.eval_shape(lambda z: generator.init_with_output(key(0), z)[0], jnp.zeros((5, 8)))
    assert made.shape == (5, *image_shape)


def test_hinge_loss_by_hand():
    # real: max(0, 1 - s) = 0, 1, 3; fake: max(0, 1 + s) = 0, 1.5
    assert hinge_loss(jnp.array([2.0, 0.0, -2.0]), jnp.array([-4.0, 0.5])) == pytest.approx(4 / 3 + 0.75)
    assert hinge_loss(jnp.zeros(2), jnp.zeros(2)) == 2


@pytest.mark.parametrize("get", [lambda trained: start("dcgan"), lambda trained: trained("dcgan").model],
                         ids=["untrained", "trained"])
def test_kernels_as_used_have_spectral_norm_one(trained, get):
    """Scaling a raw kernel changes nothing, and the sigma stored with it is its largest singular value."""
    model = get(trained)
    norms = model.variables["batch_stats"]["discriminator"]
    for norm, layer in (("norm_0", "conv_0"), ("norm_1", "conv_1"), ("norm_2", "conv_2"),
                        ("norm_dense", "dense")):
        kernel = np.asarray(model.params[layer]["kernel"], np.float64)
        matrix = kernel.reshape(-1, kernel.shape[-1]) / norms[norm][f"{layer}/kernel/sigma"]
        assert np.linalg.norm(matrix, 2) == pytest.approx(1, abs=1e-5)

    x = jnp.asarray(squares(1, 1, 3).images[0].astype(np.float32) / 255)
    density = jax.jit(model.log_density)
    scaled = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 3 * leaf if path[-1].key == "kernel" else leaf, model.params)
    np.testing.assert_allclose(density(scaled, x, key(0)), density(model.params, x, key(0)), rtol=1e-4)


def test_the_average_follows_the_generator_alone(trained):
    config, _ = CONFIGS["dcgan"]
    adversaries = dcgan._Adversaries(config, (12, 12, 1))
    images, labels = squares(32, 1, 0)
    state, met = adversaries.start(start("dcgan").variables), []
    for step in range(3):
        state, _ = adversaries.step(state, images, labels, key(step))
        met.append(state.generator["params"])
    weights = config.ema ** np.array([2, 1, 0])
    mean = jax.tree.map(lambda *leaves: np.tensordot(weights / weights.sum(), np.stack(leaves), 1), *met)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
                 averaged(state.average, config.ema), mean)


def test_the_averaged_generator_has_the_batch_statistics_of_its_own_images(trained):
    model = trained("dcgan").model
    generator = Generator(CONFIGS["dcgan"][0].generator_width, (12, 12, 1))
    variables = {name: parts["generator"] for name, parts in model.variables.items()}
    latents = jnp.asarray(np.random.default_rng(0).normal(size=(1024, 8)).astype(np.float32))
    _, stats = jax.jit(lambda z: generator.apply(variables, z, train=True, mutable=["batch_stats"]))(latents)
    for norm, theirs in stats["batch_stats"].items():
        spread = np.sqrt(theirs["var"])
        np.testing.assert_allclose(variables["batch_stats"][norm]["mean"], theirs["mean"], atol=0.2 * spread.max())
        np.testing.assert_allclose(np.sqrt(variables["batch_stats"][norm]["var"]), spread, rtol=0.2)


def failed(model, history):
    images = squares(64, 1, 0).images
    _, checks = appraise(model, images, squares(64, 1, 1).images, history, key(0))
    return [check.name for check in checks if not check.passed]


def test_checks_find_a_collapsed_generator(trained):
    model = trained("dcgan").model
    healthy = {"discriminator_loss": [1.5] * 20, "discriminator_accuracy": [0.7] * 20}
    assert failed(model, healthy) == []
    parts = model.variables["params"]
    blind = {**parts["generator"], "norm_0": jax.tree.map(jnp.zeros_like, parts["generator"]["norm_0"])}
    collapsed = replace(model, variables={**model.variables, "params": {**parts, "generator": blind}})
    assert mean_distance(collapsed.sample(key(0), 8)) == 0
    assert failed(collapsed, healthy) == ["samples as diverse as images"]


def test_checks_find_a_discriminator_that_has_won_in_the_last_tenth(trained):
    model = trained("dcgan").model
    won = {"discriminator_loss": [1.5] * 18 + [0.01] * 2, "discriminator_accuracy": [0.7] * 18 + [1.0] * 2}
    assert failed(model, won) == ["discriminator still learns", "discriminator still errs"]
    recovered = {name: values[::-1] for name, values in won.items()}
    assert failed(model, recovered) == []


def test_mean_distance_by_hand():
    images = np.array([0.0, 3.0, 7.0]).reshape(3, 1, 1, 1)
    assert mean_distance(images) == pytest.approx((3 + 7 + 4) / 3)


def test_the_mean_sample_comes_near_the_mean_image(trained):
    mean = squares(500, 1, 5).images.mean(0) / 255

    def distance(model):
        return np.linalg.norm(model.sample(key(1), 500).mean(0) - mean)

    assert distance(trained("dcgan").model) < 0.4 * distance(start("dcgan"))
