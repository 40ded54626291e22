"""What every GAN must satisfy: its spectral norms, its generator's average and penalty, its losses, its checks."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from nfk.models.adversarial_loss import HINGE, LEAST_SQUARES, hinge_loss, least_squares_loss, movement
from nfk.models.gan import appraise, mean_distance
from nfk.training import averaged
from tests.models.small_networks import key, squares, start

every_gan = pytest.mark.parametrize("name", ["dcgan", "resnet_gan"])


def test_hinge_loss_by_hand():
    # real: max(0, 1 - s) = 0, 1, 3; fake: max(0, 1 + s) = 0, 1.5
    assert hinge_loss(jnp.array([2.0, 0.0, -2.0]), jnp.array([-4.0, 0.5])) == pytest.approx(4 / 3 + 0.75)
    assert HINGE.generator(jnp.array([1.0, -4.0])) == 1.5


def test_least_squares_by_hand():
    logits = jnp.log(jnp.array([3.0, 1.0, 1 / 3]))  # sigmoid: 3/4, 1/2, 1/4
    assert least_squares_loss(logits, logits[:1]) == pytest.approx((1 / 16 + 1 / 4 + 9 / 16) / 3 + 9 / 16)
    assert LEAST_SQUARES.generator(logits[:2]) == pytest.approx((1 / 16 + 1 / 4) / 2)


@pytest.mark.parametrize("loss", [HINGE, LEAST_SQUARES], ids=lambda loss: loss.name)
def test_ignorance_is_the_loss_of_a_discriminator_that_knows_nothing(loss):
    assert loss.discriminator(jnp.zeros(2), jnp.zeros(3)) == loss.ignorance


def test_movement_by_hand():
    fake, target = np.zeros((2, 2, 1, 1), np.float32), np.zeros((2, 2, 1, 1), np.float32)
    fake[0, 0], target[1, 1] = 0.5, 0.25  # by 1 and by 1/2 in [-1, 1]
    assert movement(jnp.asarray(fake), jnp.asarray(target)) == (1 + 1 / 4) / 4


@every_gan
@pytest.mark.parametrize("when", ["untrained", "trained"])
def test_kernels_as_used_have_spectral_norm_one(trained, name, when):
    """Scaling a raw kernel changes nothing, and the sigma stored with it is its largest singular value."""
    model = trained(name).model if when == "trained" else start(name)
    norms = model.variables["batch_stats"]["discriminator"]
    assert len(norms) == sum("kernel" in layer for layer in model.params.values())
    for stored in norms.values():
        (layer,) = {entry.split("/")[0] for entry in stored}
        kernel = np.asarray(model.params[layer]["kernel"], np.float64)
        matrix = kernel.reshape(-1, kernel.shape[-1]) / stored[f"{layer}/kernel/sigma"]
        assert np.linalg.norm(matrix, 2) == pytest.approx(1, abs=1e-5)

    x = jnp.asarray(squares(1, 1, 3).images[0].astype(np.float32) / 255)
    density = jax.jit(model.log_density)
    scaled = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 3 * leaf if path[-1].key == "kernel" else leaf, model.params)
    np.testing.assert_allclose(density(scaled, x, key(0)), density(model.params, x, key(0)), rtol=1e-4)


@every_gan
def test_the_average_follows_the_generator_alone(name):
    adversaries = start(name).adversaries
    images, labels = squares(32, 1, 0)
    state, met = adversaries.start(start(name).variables), []
    for step in range(3):
        state, _ = adversaries.step(state, images, labels, key(step))
        met.append(state.generator["params"])
    weights = adversaries.ema ** np.array([2, 1, 0])
    mean = jax.tree.map(lambda *leaves: np.tensordot(weights / weights.sum(), np.stack(leaves), 1), *met)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
                 averaged(state.average, adversaries.ema), mean)


@every_gan
def test_the_averaged_generator_has_the_batch_statistics_of_its_own_images(trained, name):
    model = trained(name).model
    variables = {collection: parts["generator"] for collection, parts in model.variables.items()}
    latents = jnp.asarray(np.random.default_rng(0).normal(size=(1024, 8)).astype(np.float32))
    _, stats = jax.jit(lambda z: model.adversaries.generator.apply(
        variables, z, train=True, mutable=["batch_stats"]))(latents)
    for norm, theirs in stats["batch_stats"].items():
        spread = np.sqrt(theirs["var"])
        np.testing.assert_allclose(variables["batch_stats"][norm]["mean"], theirs["mean"], atol=0.2 * spread.max())
        np.testing.assert_allclose(np.sqrt(variables["batch_stats"][norm]["var"]), spread, rtol=0.2)


def test_the_penalty_is_off_by_default_nothing_at_first_and_then_holds_the_generator():
    model = start("resnet_gan")
    images, labels = squares(32, 1, 0)

    def run(penalty, steps):
        adversaries = replace(model.adversaries, penalty=penalty)
        state = adversaries.start(model.variables)
        for step in range(steps):
            state, terms = adversaries.step(state, images, labels, key(step))
        return ravel_pytree(state.generator["params"])[0], terms

    def apart(a, b):
        return np.linalg.norm(a - b) / np.linalg.norm(a)

    # until the second step is done, the average is the present generator
    (free_first, terms), (free_later, _) = run(0.0, 2), run(0.0, 3)
    (held_first, still), (held_later, moved) = run(100.0, 2), run(100.0, 3)
    assert model.adversaries.penalty == 0 and "generator_movement" not in terms
    assert still["generator_movement"] < 1e-10 < 1e-7 < moved["generator_movement"]
    assert apart(free_first, held_first) < 1e-4 < 1e-3 < apart(free_later, held_later)


def failed(model, history):
    images = squares(64, 1, 0).images
    _, checks = appraise(model, images, squares(64, 1, 1).images, history, key(0))
    return [check.name for check in checks if not check.passed]


def collapsed(model):
    """The network with a generator whose every scale and shift is nought: the same image for all latents."""
    parts = model.variables["params"]
    blind = {layer: jax.tree.map(jnp.zeros_like, params) if "scale" in params else params
             for layer, params in parts["generator"].items()}
    blind["dense"] = jax.tree.map(jnp.zeros_like, blind["dense"])
    return replace(model, variables={**model.variables, "params": {**parts, "generator": blind}})


@every_gan
def test_checks_find_a_collapsed_generator(trained, name):
    model = trained(name).model
    half = model.adversaries.loss.ignorance / 2
    healthy = {"discriminator_loss": [half] * 20, "discriminator_accuracy": [0.7] * 20}
    assert failed(model, healthy) == []
    assert mean_distance(collapsed(model).sample(key(0), 8)) == 0
    assert failed(collapsed(model), healthy) == ["samples as diverse as images"]


@every_gan
def test_checks_find_a_discriminator_that_has_won_in_the_last_tenth(trained, name):
    model = trained(name).model
    ignorance = model.adversaries.loss.ignorance
    won = {"discriminator_loss": [ignorance / 2] * 18 + [ignorance / 200] * 2,
           "discriminator_accuracy": [0.7] * 18 + [1.0] * 2}
    assert failed(model, won) == ["discriminator still learns", "discriminator still errs"]
    recovered = {name: values[::-1] for name, values in won.items()}
    assert failed(model, recovered) == []


def test_mean_distance_by_hand():
    images = np.array([0.0, 3.0, 7.0]).reshape(3, 1, 1, 1)
    assert mean_distance(images) == pytest.approx((3 + 7 + 4) / 3)


@every_gan
def test_the_mean_sample_comes_near_the_mean_image(trained, name):
    mean = squares(500, 1, 5).images.mean(0) / 255

    def distance(model):
        return np.linalg.norm(model.sample(key(1), 500).mean(0) - mean)

    assert distance(trained(name).model) < 0.4 * distance(start(name))


@pytest.mark.parametrize("name", ["dcgan"])
def test_samples_are_the_images_of_normal_latents(trained, name):
    """`sample` and `generate` are one generator; an image depends on its own latent alone."""
    model = trained(name).model
    latents = jax.random.normal(key(4), (2, 256, model.latents)).reshape(-1, model.latents)
    made = model.generate(np.asarray(latents[:300]))
    np.testing.assert_array_equal(made, model.sample(key(4), 300))
    np.testing.assert_array_equal(model.generate(np.asarray(latents[7:9])), made[7:9])
