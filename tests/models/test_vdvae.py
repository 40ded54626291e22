"""The hierarchical VAE: its layers' divergences, its bound solved by hand, its sizes, what training gains."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from nfk.family_params import VdvaeParams
from nfk.models.exact_likelihood import bits_per_dimension, independent_pixels_log_likelihood
from nfk.models.families import initial
from nfk.models.logistic_mixture import log_probability, mixture
from nfk.models.vdvae import Bottleneck, Normal, _draw, appraise, kl_divergence, log_ratio, resolutions
from nfk.params import ParamsError, parse
from nfk.training import TrainingError
from tests.models.small_networks import examples, key, squares, start

CHILD = VdvaeParams(width=384, middle=96, latent=16, mixtures=10, encoder=(12, 7, 7, 4, 3), decoder=(22, 11, 6, 3, 1))


def parameters(config, image_shape):
    params = jax.eval_shape(lambda k: initial(config, image_shape, 10, k).params, key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def normals(seed, count):
    random = np.random.default_rng(seed)
    return Normal(*(jnp.asarray(a) for a in (random.normal(size=count), random.uniform(-1.5, 1.5, count))))


def test_a_posterior_that_is_the_prior_has_neither_divergence_nor_ratio(x64):
    p, noise = normals(0, 50), jnp.asarray(np.random.default_rng(1).normal(size=50))
    np.testing.assert_array_equal(kl_divergence(p, p), np.zeros(50))
    np.testing.assert_allclose(log_ratio(p, p, noise), np.zeros(50), atol=1e-12)


def test_divergence_and_ratio_are_those_of_scipy_s_densities(x64):
    q, p = normals(0, 40), normals(1, 40)
    as_scipy = [stats.norm(a.mean, np.exp(a.log_scale)) for a in (q, p)]
    points, masses = np.polynomial.hermite_e.hermegauss(60)
    for each, noise in enumerate(np.random.default_rng(2).normal(size=3)):
        z = np.asarray(q.at(jnp.full(40, noise)))
        expected = as_scipy[1].logpdf(z) - as_scipy[0].logpdf(z)
        np.testing.assert_allclose(log_ratio(q, p, jnp.full(40, noise)), expected, rtol=1e-10, err_msg=str(each))
    ratios = np.stack([np.asarray(log_ratio(q, p, jnp.full(40, point))) for point in points])
    np.testing.assert_allclose(kl_divergence(q, p), -(masses / masses.sum()) @ ratios, rtol=1e-8)


def test_log_scales_are_bounded_and_near_zero_as_they_are(x64):
    found = Normal.of(jnp.asarray([[[[7.0, 7.0, 7.0, -1e9, 1e-3, 1e9]]]])).log_scale
    np.testing.assert_allclose(found[0, 0, 0], [-5, 1e-3, 5], rtol=1e-6)


def test_the_bound_of_a_network_solved_by_hand(x64):
    """All parameters zero but the last blocks' biases: one Gaussian q and p each, one mixture, whatever the image."""
    model = start("vdvae")
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), model.params)
    q, p = Normal(0.5, 0.2), Normal(-0.25, -0.1)
    raw = {which: 5 * np.arctanh(which.log_scale / 5) for which in (q, p)}
    latent, decoder = model.config.latent, params["decoder"]
    for name in [name for name in decoder if name.startswith("block_")]:
        for branch, which in (("posterior", q), ("prior", p)):
            bias = decoder[name][branch]["conv_3"]["bias"]
            decoder[name][branch]["conv_3"]["bias"] = (
                bias.at[:latent].set(which.mean).at[latent : 2 * latent].set(raw[which]))
    outputs = np.random.default_rng(0).normal(size=decoder["last"]["bias"].shape)
    decoder["last"]["bias"] = jnp.asarray(outputs)
    x = jnp.asarray(examples("vdvae")[0], jnp.float64)
    pixels = mixture(jnp.broadcast_to(jnp.asarray(outputs), (12, 12, len(outputs))), 1)
    kl = (np.exp(0.6) + (0.75 * np.exp(0.1)) ** 2 - 1) / 2 - 0.3
    expected = float(log_probability(pixels, 2 * x - 1).sum()) - model.network.latents * kl
    assert jax.jit(model.log_density)(params, x, key(0)) == pytest.approx(expected, rel=1e-12)


def test_the_start_s_sizes_do_not_grow_with_depth():
    """The branches' last kernels are scaled by 1 / sqrt(their number), a prior's last one is zero."""
    config = VdvaeParams(width=64, middle=16, encoder=(1, 3), decoder=(1, 2))
    params = initial(config, (8, 8, 1), 2, key(0)).params
    for part, name, branch, count in (("encoder", "block_0_0", None, 4), ("decoder", "block_1_1", "residual", 3)):
        block = params[part][name] if branch is None else params[part][name][branch]
        kernels = [np.std(block[conv]["kernel"]) * np.sqrt(np.prod(block[conv]["kernel"].shape[:-1]))
                   for conv in ("conv_1", "conv_3")]
        assert kernels[1] / kernels[0] == pytest.approx(1 / np.sqrt(count), rel=0.15)
    for block in (block for name, block in params["decoder"].items() if name.startswith("block_")):
        assert not np.any(block["prior"]["conv_3"]["kernel"])
        assert np.std(block["latent"]["kernel"]) == pytest.approx(1 / np.sqrt(4 * 3), rel=0.15)


@pytest.mark.parametrize("shape, count, expected", [
    ((28, 28, 1), 4, ((28, 28), (14, 14), (7, 7), (1, 1))),
    ((32, 32, 3), 5, ((32, 32), (16, 16), (8, 8), (4, 4), (1, 1))),
    ((13, 10, 1), 4, ((16, 12), (8, 6), (4, 3), (1, 1))),
])
def test_resolutions_are_halves_and_last_one_pixel(shape, count, expected):
    assert resolutions(shape, count) == expected


def test_sides_that_are_no_multiples_are_framed_and_cropped():
    """By mid-grey: a larger image with such a frame is seen alike, and only its likelihood counts the frame."""
    config = VdvaeParams(width=4, middle=2, latent=1, mixtures=2, encoder=(1, 1, 1), decoder=(1, 1, 1))
    model = initial(config, (5, 7, 3), 4, key(0))
    larger = replace(model, image_shape=(6, 8, 3)).network
    assert model.network.latents == larger.latents == 6 * 8 + 3 * 4 + 1
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 5, 7, 3)), jnp.float32)
    framed = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=0.5)
    both = jax.jit(lambda x, framed: (model.network.bound(model.params, x, None)[0],
                                      larger.bound(model.params, framed, None)[0]))
    inside, whole = both(x, framed)
    np.testing.assert_allclose(inside.kl, whole.kl, rtol=1e-5)
    assert (inside.log_likelihood > whole.log_likelihood + 1).all()
    assert jax.eval_shape(lambda k: _draw(model.network, model.params, k), key(1)).shape == (256, 5, 7, 3)


def test_kernels_are_of_one_pixel_where_larger_ones_would_see_the_frame():
    for side, expected in ((2, (1, 1)), (3, (3, 3))):
        shapes = jax.eval_shape(Bottleneck(2, 3, jax.nn.initializers.zeros).init, key(0), jnp.zeros((1, side, side, 3)))
        assert shapes["params"]["conv_1"]["kernel"].shape[:2] == expected


def test_networks_have_the_sizes_their_section_states():
    assert parameters(VdvaeParams(), (28, 28, 1)) == 69_215
    assert parameters(CHILD, (32, 32, 3)) == 39_145_700


@pytest.mark.parametrize("name", ["vdvae", "vdvae_colour"])
def test_training_raises_the_bound_above_independent_pixels(trained, name):
    result = trained(name)
    density = jax.jit(jax.vmap(result.model.log_density, (None, 0, None)))
    images = jnp.asarray(examples(name))
    after, before = (density(params, images, key(0)) for params in (result.model.params, start(name).params))
    history, channels = result.history["validation_elbo"], images.shape[-1]
    trivial = independent_pixels_log_likelihood(squares(256, channels, 0).images, squares(64, channels, 1).images)
    assert (after > before).all() and after.mean() > trivial
    assert history[-1] > trivial > before.max() and history[-1] > history[0]
    bits = bits_per_dimension(result.metrics["validation_elbo"], result.model.image_shape)
    assert result.metrics["validation_bits_per_dimension"] == pytest.approx(bits, rel=1e-5)


def test_samples_are_images_of_256_levels(trained):
    samples = trained("vdvae").model.sample(key(0), 20) * 255
    np.testing.assert_allclose(samples, np.round(samples), atol=1e-4)


def test_a_training_that_learnt_nothing_is_found():
    images, held_out = squares(64, 1, 0).images, squares(64, 1, 1).images
    trivial = independent_pixels_log_likelihood(images, held_out)

    def failed(elbo, kl):
        checks = appraise({"validation_elbo": elbo, "validation_kl": kl}, images, held_out)
        return [check.name for check in checks if not check.passed]

    assert failed(trivial + 1, 2.0) == []
    assert failed(trivial - 1, 0.5) == ["validation ELBO above independent pixels", "posterior tells images apart"]


@pytest.mark.parametrize("values, message", [
    ({"encoder": [1, 1], "decoder": [1, 1, 1]},
     "encoder has 2 resolutions and decoder 3; give both as many numbers; change it"),
    ({"encoder": [1], "decoder": [1]}, "encoder=[1]: Tuple should have at least 2 items"),
    ({"decoder": [1, 0, 1, 1]}, "decoder.1=0: must be greater than or equal to 1"),
    ({"width": 2000}, "width=2000: must be less than or equal to 1024"),
    ({"middle": 0}, "middle=0: must be greater than or equal to 1"),
    ({"latent": 0}, "latent=0: must be greater than or equal to 1"),
    ({"ema": 1.0}, "ema=1.0: must be less than 1"),
    ({"importance": True}, "importance=True needs noises to weigh and has noises=0"),
])
def test_settings_out_of_range_are_refused(values, message):
    with pytest.raises(ParamsError) as refused:
        parse({"families": {"v": {"model": "vdvae", **values}}})
    assert message in str(refused.value) and str(refused.value).startswith("params: families.v")


def test_more_halvings_than_there_are_pixels_are_refused():
    config = VdvaeParams(encoder=(1,) * 6, decoder=(1,) * 6)
    message = (r"vdvae of 6 resolutions on images of image_shape=\(12, 12, 1\): the last would be halved to nothing; "
               r"give encoder and decoder 5 numbers or fewer in params\.yaml")
    with pytest.raises(TrainingError, match=message):
        initial(config, (12, 12, 1), 4, key(0))
