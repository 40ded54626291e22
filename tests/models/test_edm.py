"""Diffusion: its potential and sampler with denoisers solved by hand, and what its training learns."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfk.family_params import EdmParams
from nfk.models.edm import (
    SIGMA_DATA,
    edm_weight,
    heun,
    independent_pixel_loss,
    potential_grid,
    weighted_error,
)
from nfk.models.families import initial
from nfk.models.unet import Attention
from nfk.params import ParamsError, parse
from nfk.training import unit_range
from tests.models.small_networks import examples, key, squares

MEAN, DEVIATION = 0.3, 0.4


def gaussian(x, sigmas):
    """The posterior mean of x0 ~ N(MEAN, DEVIATION^2), pixel by pixel, given x = x0 + sigma n."""
    share = (DEVIATION**2 / (DEVIATION**2 + sigmas**2))[:, None, None, None]
    return MEAN + share * (x - MEAN)


def test_the_likelihood_weighting_gives_a_gaussian_s_log_density(x64):
    """s(x) = log N(x; MEAN, DEVIATION^2) + const for the exact denoiser, over many noises and a fine, wide grid."""
    levels = 4000
    sigmas, weights = (jnp.asarray(found) for found in potential_grid("likelihood", levels, 1e-3, 1e3))
    noise = jax.random.normal(key(0), (levels, 1, 1, 1), jnp.float64)
    values = np.linspace(-0.6, 1.2, 7)
    found = np.array([
        -(weighted_error(gaussian, jnp.full((1, 1, 1), value), noise, sigmas, weights)
          + weighted_error(gaussian, jnp.full((1, 1, 1), value), -noise, sigmas, weights)) / 2 for value in values])
    exact = -0.5 * ((values - MEAN) / DEVIATION) ** 2
    np.testing.assert_allclose(found - found.mean(), exact - exact.mean(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("weighting", ["likelihood", "edm"])
def test_the_potential_of_a_gaussian_s_denoiser_in_closed_form(x64, weighting):
    sigmas, weights = potential_grid(weighting, 3, 0.1, 2.0)
    noise = np.random.default_rng(0).normal(size=(3, 2, 2, 1))
    x = np.random.default_rng(1).normal(size=(2, 2, 1))
    share = DEVIATION**2 / (DEVIATION**2 + sigmas**2)
    error = [(((1 - share[i]) * (MEAN - x) + share[i] * sigmas[i] * noise[i]) ** 2).sum() for i in range(3)]
    found = weighted_error(gaussian, *(jnp.asarray(a) for a in (x, noise, sigmas, weights)))
    np.testing.assert_allclose(found, weights @ np.array(error), rtol=1e-12)


def test_the_grid_is_the_midpoints_of_equal_parts_of_the_logarithm():
    sigmas, weights = potential_grid("likelihood", 2, 0.01, 100.0)
    np.testing.assert_allclose(sigmas, [0.1, 10.0])
    np.testing.assert_allclose(weights, np.log(100.0) / sigmas**2)
    np.testing.assert_allclose(potential_grid("edm", 2, 0.01, 100.0)[1], edm_weight(sigmas) / 2)


def test_heun_with_the_exact_denoiser_draws_that_gaussian(x64):
    noise = jax.random.normal(key(1), (4000, 2, 1, 1), jnp.float64)
    drawn = np.asarray(heun(gaussian, noise, 40))
    # the flow is x -> MEAN + DEVIATION z for the noise z: exactly, but for the steps
    np.testing.assert_allclose(drawn, MEAN + DEVIATION * np.asarray(noise), atol=0.02)
    assert abs(drawn.std() - DEVIATION) < 0.01


def test_preconditioning_starts_from_the_best_guess_without_a_network(trained):
    """With F = 0, D shrinks towards zero as is best for data of deviation sigma_data around it."""
    model = trained("edm").model
    params = jax.tree.map(jnp.zeros_like, model.params)
    x = jnp.asarray(examples("edm"))
    sigmas = jnp.array([0.01, 0.5, 20.0])
    share = SIGMA_DATA**2 / (SIGMA_DATA**2 + sigmas**2)
    np.testing.assert_allclose(model._network.denoise(params, x, sigmas), share[:, None, None, None] * x, rtol=1e-6)


@pytest.mark.parametrize("setting, value", [("jax_default_prng_impl", "rbg"), ("jax_threefry_partitionable", False)])
def test_the_potential_follows_no_setting_of_jax(trained, setting, value):
    model, x = trained("edm").model, jnp.asarray(examples("edm")[0])
    before = getattr(jax.config, setting)
    expected = model.log_density(model.params, x, key(0))
    jax.config.update(setting, value)
    try:
        assert model.log_density(model.params, x, key(0)) == expected
    finally:
        jax.config.update(setting, before)


def test_heun_s_last_step_is_the_denoiser_s_word(x64):
    """Euler's rule from sigma to 0 is x - sigma (x - D) / sigma = D, the denoiser's output itself."""
    noise = jax.random.normal(key(1), (5, 2, 2, 1), jnp.float64)
    np.testing.assert_allclose(heun(lambda x, sigmas: jnp.full_like(x, 0.25), noise, 4), 0.25, atol=1e-12)


@pytest.mark.parametrize("shape", [(13, 10, 1), (5, 7, 3)])
def test_sides_that_are_no_multiples_of_4_are_framed_and_cropped(shape):
    model = initial(EdmParams(width=4, potential_levels=2, sampler_steps=2), shape, 4, key(0))
    x = jnp.asarray(np.random.default_rng(0).uniform(size=shape), jnp.float32)
    assert model.sample(key(1), 3).shape == (3, *shape)
    assert model.activations(x[None])["up_0"].shape[1:3] == (-(-shape[0] // 4) * 4, -(-shape[1] // 4) * 4)
    # the frame is of zeros: a larger image of zeros around this one is denoised alike inside
    unet, params = model._network.unet, model.params
    framed = jnp.pad(x[None], ((0, 0), (0, -shape[0] % 4), (0, -shape[1] % 4), (0, 0)))
    level = jnp.zeros(1)
    inside = unet.apply({"params": params}, framed, level)[0][:, : shape[0], : shape[1]]
    np.testing.assert_allclose(unet.apply({"params": params}, x[None], level)[0], inside, atol=1e-6)


def test_attention_is_softmax_of_products_over_all_places():
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 8)).astype(np.float32)
    module = Attention()
    params = module.init(key(0), jnp.asarray(x))["params"]
    found = module.apply({"params": params}, jnp.asarray(x))
    groups = x.reshape(2, 6, 4, 2).astype(np.float64)
    mean, variance = (getattr(groups, name)(axis=(1, 3), keepdims=True) for name in ("mean", "var"))
    places = ((groups - mean) / np.sqrt(variance + 1e-6)).reshape(2, 6, 8)
    weights = {name: np.asarray(params[name]["kernel"], np.float64) for name in ("query_key_value", "out")}
    query, keys, values = np.split(places @ weights["query_key_value"], 3, axis=-1)
    scores = query @ keys.transpose(0, 2, 1) / np.sqrt(8)
    mixed = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True) @ values @ weights["out"]
    np.testing.assert_allclose(found, (x + mixed.reshape(x.shape)) / np.sqrt(2), atol=1e-5)


def test_training_denoises_better_than_independent_pixels(trained):
    result = trained("edm")
    losses = -np.array(result.history["validation_negative_denoising_error"])
    assert losses[-1] < losses[0]
    assert losses[-1] < 0.8 * independent_pixel_loss(squares(256, 1, 0).images)


def test_independent_pixels_are_what_their_denoiser_loses():
    images = np.random.default_rng(0).integers(0, 256, (4000, 2, 2, 1)).astype(np.uint8)
    x = np.asarray(2 * unit_range(jnp.asarray(images)) - 1, np.float64)
    mean, variance = x.mean(axis=0), x.var(axis=0)
    random = np.random.default_rng(1)
    sigmas = np.exp(-1.2 + 1.2 * random.normal(size=len(x)))
    each = sigmas[:, None, None, None]
    noised = x + each * random.normal(size=x.shape)
    errors = (mean + variance / (variance + each**2) * (noised - mean) - x) ** 2
    lost = (edm_weight(sigmas) * errors.mean(axis=(1, 2, 3))).mean()
    assert independent_pixel_loss(images) == pytest.approx(lost, rel=0.03)


def test_a_larger_potential_range_and_other_weights_are_other_potentials(trained):
    model = trained("edm").model
    x = jnp.asarray(examples("edm")[0])
    found = {float(replace(model, config=EdmParams(**{**model.config.model_dump(), **change})).log_density(
                 model.params, x, key(0)))
             for change in ({}, {"weighting": "edm"}, {"potential_high": 9.0}, {"potential_levels": 4})}
    assert len(found) == 4


def test_levels_out_of_order_are_refused():
    with pytest.raises(ParamsError, match=r"families\.d: potential_low=2\.0 must be below potential_high=1\.0; change"):
        parse({"families": {"d": {"model": "edm", "potential_low": 2.0, "potential_high": 1.0}}})


def test_the_default_network_has_the_size_its_section_states():
    params = jax.eval_shape(lambda k: initial(EdmParams(), (28, 28, 1), 10, k).params, key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == pytest.approx(91_000, rel=0.01)


def test_the_potential_of_given_noises_is_the_mean_of_each_alone(trained):
    model, x = trained("edm").model, jnp.asarray(examples("edm")[0])
    noise = jax.random.normal(key(3), (2, *model.noise_shape))
    each = [float(model.log_density_given(model.params, x, noise[draw : draw + 1])) for draw in range(2)]
    assert each[0] != each[1]
    assert model.log_density_given(model.params, x, noise) == pytest.approx(np.mean(each), rel=1e-5)
    without = model.log_density_given(model.params, x, None)
    assert without == model.log_density_given(model.params, x, jnp.zeros((1, *model.noise_shape)))
    assert without > max(each)  # what has no noise is denoised with the least error
