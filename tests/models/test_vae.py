"""The bounds that a VAE's potential may be: at the posterior mean, over noises shared by all images, weighted by
importance."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from nfk.fisher.scores import Scores
from nfk.models.fixed_noise import fixed_noise
from nfk.params import ParamsError, parse
from tests.models.small_networks import examples, key

NAMES = ["conv_vae", "vdvae"]
every_vae = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def vae(trained, name):
    """`trained`, outside the float64 that a test runs in."""
    trained(name)
    return trained


def with_noises(model, noises, importance=False):
    return replace(model, config=model.config.model_copy(update={"noises": noises, "importance": importance}))


def densities(model, name):
    params, x = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (model.params, examples(name)))
    return np.asarray(jax.jit(jax.vmap(model.log_density, (None, 0, None)))(params, x, key(0)))


@every_vae
def test_the_importance_weighted_bound_is_above_the_mean(vae, x64, name):
    """Jensen's inequality, for the same noises; and both are what each noise's weight alone makes them."""
    model = vae(name).model
    mean, weighted = (densities(with_noises(model, *how), name) for how in ((4,), (4, True)))
    assert (weighted > mean).all()
    noises = np.asarray(fixed_noise((4, 1, model.network.latents)), np.float64)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), model.params)
    log_w = log_weights(model, params, examples(name)[0], noises)
    assert mean[0] == pytest.approx(log_w.mean(), rel=1e-10)
    assert weighted[0] == pytest.approx(np.log(np.mean(np.exp(log_w - log_w.max()))) + log_w.max(), rel=1e-10)


def log_weights(model, params, image, noises):
    """log w of each noise alone."""
    bound = jax.jit(lambda noise: model.network.bound(params, jnp.asarray(image, jnp.float64)[None], noise)[0])
    return np.array([float(bound(jnp.asarray(noise)).log_weight[0]) for noise in noises])


@every_vae
def test_one_noise_leaves_nothing_to_weigh(vae, x64, name):
    model = vae(name).model
    np.testing.assert_array_equal(densities(with_noises(model, 1), name), densities(with_noises(model, 1, True), name))


@every_vae
def test_over_many_noises_the_mean_of_the_log_ratio_is_minus_the_divergence(vae, x64, name):
    model = vae(name).model
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), model.params)
    x = jnp.repeat(jnp.asarray(examples(name)[:1], jnp.float64), 4000, axis=0)
    noise = jax.random.normal(key(0), (4000, model.network.latents), jnp.float64)
    bound, _ = jax.jit(model.network.bound)(params, x, noise)
    error = np.asarray(bound.log_ratio + bound.kl)
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(len(error))
    assert error.std() > 0.1


@pytest.mark.parametrize("importance", [False, True])
@pytest.mark.parametrize("name", ["conv_vae"])
def test_the_bound_of_several_noises_in_plain_numpy(vae, x64, name, importance):
    """The weights from densities of SciPy's; only the two networks' outputs are the model's own."""
    model, (image, *_) = vae(name).model, examples(name)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), model.params)
    network, image = model.network, np.asarray(image, np.float64)
    mean, log_variance, _ = network.encoder.apply({"params": params["encoder"]}, jnp.asarray(image[None]))
    mean, log_variance = np.asarray(mean), np.asarray(log_variance)
    scale, log_w = np.exp(log_variance[0] / 2), []
    for noise in np.asarray(fixed_noise((5, network.latents)), np.float64):
        z = mean[0] + scale * noise
        logits = np.asarray(network.decoder.apply({"params": params["decoder"]}, jnp.asarray(z[None]))[0])[0]
        pixels = 1 / (1 + np.exp(-logits))
        log_w.append((image * np.log(pixels) + (1 - image) * np.log(1 - pixels)).sum()
                     + stats.norm.logpdf(z).sum() - stats.norm.logpdf(z, mean[0], scale).sum())
    expected = np.log(np.mean(np.exp(log_w - np.max(log_w)))) + np.max(log_w) if importance else np.mean(log_w)
    assert densities(with_noises(model, 5, importance), "conv_vae")[0] == pytest.approx(expected, rel=1e-10)


@every_vae
def test_scores_over_noises_by_the_fast_path_are_plain_gradients(vae, x64, name):
    model = with_noises(vae(name).model, 3, importance=True)
    scores = Scores(model.log_density, model.params).in_float64
    images = jnp.asarray(examples(name), jnp.float64)
    gradient = jax.jit(jax.grad(model.log_density))
    for row, image in zip(scores(images), images, strict=True):
        plain = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradient(scores.params, image, key(1)))])
        assert jnp.linalg.norm(row - plain) < 1e-10 * jnp.linalg.norm(plain)


@pytest.mark.parametrize("values, message", [
    ({"importance": True}, "importance=True needs noises to weigh and has noises=0; raise noises, or set importance"),
    ({"noises": -1}, "noises=-1: must be greater than or equal to 0"),
    ({"noises": 1001}, "noises=1001: must be less than or equal to 1000"),
])
def test_noises_out_of_range_are_refused(values, message):
    with pytest.raises(ParamsError) as refused:
        parse({"families": {"v": {"model": "conv_vae", **values}}})
    assert message in str(refused.value) and "\n" not in str(refused.value)


@every_vae
def test_the_potential_of_given_noises_is_the_mean_of_each_alone(vae, x64, name):
    """And of none it is the potential without noise, of the fixed ones the potential with as many."""
    model = vae(name).model
    params, x = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (model.params, examples(name)[0]))
    given = jax.jit(model.log_density_given)  # operation by operation it compiles for a minute

    def alone(noises):
        return jax.jit(with_noises(model, noises).log_density)(params, x, key(0))

    noise = jax.random.normal(key(3), (3, *model.noise_shape))
    each = [float(given(params, x, noise[draw : draw + 1])) for draw in range(3)]
    assert len(set(each)) == 3
    assert given(params, x, noise) == pytest.approx(np.mean(each), rel=1e-10)
    assert given(params, x, None) == alone(0)
    assert given(params, x, jnp.asarray(fixed_noise((2, *model.noise_shape)))) == alone(2)
