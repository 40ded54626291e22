"""The VAE: its bound by formula and by sampling, its likelihoods, what training gains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from nfk.models.conv_vae import appraise, kl_divergence, log_likelihood, pixel_mean_log_likelihood
from tests.models.small_networks import examples, key, squares, start


def test_kl_divergence_is_the_integral_of_its_definition():
    mean, log_variance = np.array([[0.7], [-1.5]]), np.array([[-0.4], [1.1]])

    def integrand(z, m, v):
        q = stats.norm(m, np.exp(v / 2))
        return q.pdf(z) * (q.logpdf(z) - stats.norm.logpdf(z))

    numeric = [integrate.quad(integrand, -30, 30, args=(m, v), points=[m])[0]
               for m, v in zip(mean[:, 0], log_variance[:, 0], strict=True)]
    found = kl_divergence(jnp.asarray(mean, jnp.float32), jnp.asarray(log_variance, jnp.float32))
    np.testing.assert_allclose(found, numeric, rtol=1e-5)
    both = kl_divergence(*(jnp.asarray(a.T, jnp.float32) for a in (mean, log_variance)))
    np.testing.assert_allclose(both, [sum(numeric)], rtol=1e-5)


def test_bernoulli_log_likelihood_by_hand():
    x, m = np.array([0.0, 1.0, 0.25]), np.array([0.1, 0.6, 0.5])
    expected = np.log(0.9) + np.log(0.6) + 0.25 * np.log(0.5) + 0.75 * np.log(0.5)
    logits = np.log(m / (1 - m))
    found = log_likelihood(*(jnp.asarray(a.reshape(1, 1, 3, 1), jnp.float32) for a in (x, logits)), None)
    np.testing.assert_allclose(found, [expected], rtol=1e-6)


def test_gaussian_log_likelihood_is_scipys():
    random = np.random.default_rng(0)
    x, logits = random.uniform(size=(2, 2, 2, 3)), random.normal(size=(2, 2, 2, 3))
    expected = stats.norm.logpdf(x, 1 / (1 + np.exp(-logits)), np.exp(-0.7)).sum(axis=(1, 2, 3))
    found = log_likelihood(jnp.asarray(x, jnp.float32), jnp.asarray(logits, jnp.float32), jnp.float32(-0.7))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_density_is_the_bound_at_the_posterior_mean_of_a_vae_solved_by_hand():
    """All kernels zero: encoder and decoder give their biases, whatever the image."""
    model = start("conv_vae")
    params = jax.tree.map(jnp.zeros_like, model.params)
    params["encoder"]["mean"]["bias"] = jnp.array([0.5, -1.0, 0.0, 0.0])
    params["encoder"]["log_variance"]["bias"] = jnp.array([0.0, 1.0, 0.0, 0.0])
    params["decoder"]["double_1"]["bias"] = jnp.full((1, 1, 1, 1), np.log(3.0))
    kl = 0.5 * (0.25 + 1 - 0 - 1 + 1 + np.e - 1 - 1)
    expected = 144 * (0.5 * np.log(0.75) + 0.5 * np.log(0.25)) - kl
    density = jax.jit(model.log_density)
    assert density(params, jnp.full((12, 12, 1), 0.5), key(0)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["conv_vae", "conv_vae_colour"])
def test_density_bounds_the_likelihood_and_training_raises_it(trained, name):
    result = trained(name)
    density = jax.jit(jax.vmap(result.model.log_density, (None, 0, None)))
    images = jnp.asarray(examples(name))
    assert (density(result.model.params, images, key(0)) > density(start(name).params, images, key(0))).all()
    elbo = result.history["validation_elbo"]
    channels = images.shape[-1]
    trivial = pixel_mean_log_likelihood(squares(256, channels, 0).images, squares(64, channels, 1).images)
    assert elbo[-1] > trivial > elbo[0]
    assert result.metrics["validation_elbo"] == elbo[-1]


@pytest.mark.parametrize("channels", [1, 3])
def test_pixel_mean_log_likelihood_is_that_of_independent_pixels(channels):
    images, held_out = squares(300, channels, 0).images, squares(20, channels, 1).images
    means, x = images.mean(0) / 255, held_out / 255
    if channels == 1:
        terms = x * np.log(means) + (1 - x) * np.log(1 - means)
    else:
        terms = stats.norm.logpdf(x, means, (images / 255 - means).std())
    found = pixel_mean_log_likelihood(images, held_out)
    assert found == pytest.approx(terms.sum((1, 2, 3)).mean(), rel=1e-5)


def test_colour_images_have_one_scale_and_grey_ones_none():
    assert "log_scale" not in start("conv_vae").params["decoder"]
    assert start("conv_vae_colour").params["decoder"]["log_scale"].shape == ()


def test_a_posterior_that_ignores_the_image_is_found():
    images, held_out = squares(64, 1, 0).images, squares(64, 1, 1).images
    trivial = pixel_mean_log_likelihood(images, held_out)

    def failed(elbo, kl):
        checks = appraise({"validation_elbo": elbo, "validation_kl": kl}, images, held_out)
        return [check.name for check in checks if not check.passed]

    assert failed(trivial + 1, 2.0) == []
    assert failed(trivial - 1, 0.5) == ["validation ELBO above independent pixels",
                                        "posterior tells images apart"]
