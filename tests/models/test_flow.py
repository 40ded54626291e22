"""The flow: a bijection with the log determinant it says, a density that integrates to one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfk.family_params import FlowParams
from nfk.models.flow import _MARGIN, Flow, FlowNetwork, from_line, squeeze, to_line, unsqueeze
from nfk.training import TrainingError
from tests.models.small_networks import key, squares, start


def untidy(params, seed=0, scale=0.3):
    """Parameters none of which is zero, in float64."""
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf) + scale * random.normal(size=leaf.shape)), params)


def flow_of(image_shape, levels, steps=2, width=4, seed=0):
    """The bijection, and parameters for it."""
    network = FlowNetwork(levels, steps, width, image_shape)
    return network, {"params": untidy(network.init(key(seed), jnp.zeros((1, *image_shape), jnp.float32))["params"])}


@pytest.mark.parametrize("image_shape, levels", [((8, 4, 1), 2), ((4, 8, 3), 2), ((2, 6, 1), 1)])
def test_inverse_undoes_the_flow_and_the_flow_its_inverse(x64, image_shape, levels):
    network, variables = flow_of(image_shape, levels)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(5, *image_shape)))
    forward = jax.jit(lambda x: network.apply(variables, x)[0])
    inverse = jax.jit(lambda z: network.apply(variables, z, method="inverse"))
    np.testing.assert_allclose(inverse(forward(x)), x, rtol=0, atol=1e-9)
    z = x.reshape(5, -1)
    np.testing.assert_allclose(forward(inverse(z)), z, rtol=0, atol=1e-9)
    assert np.abs(forward(x) - z).max() > 0.1


@pytest.mark.parametrize("image_shape, levels", [((4, 4, 1), 2), ((2, 4, 3), 1)])
def test_log_determinant_is_that_of_the_jacobian(x64, image_shape, levels):
    network, variables = flow_of(image_shape, levels)
    jacobian = jax.jit(jax.jacfwd(lambda x: network.apply(variables, x[None])[0][0]))
    for x in jnp.asarray(np.random.default_rng(1).normal(size=(3, *image_shape))):
        square = np.asarray(jacobian(x)).reshape(x.size, x.size)
        sign, expected = np.linalg.slogdet(square)
        assert sign != 0
        np.testing.assert_allclose(network.apply(variables, x[None])[1], [expected], rtol=0, atol=1e-9)


def test_the_logit_is_counted_in_the_density(x64):
    x = jnp.asarray(np.random.default_rng(1).uniform(size=(1, 2, 3, 1)))
    t, stretched = to_line(x)
    np.testing.assert_allclose(from_line(t), x, rtol=0, atol=1e-12)
    diagonal = jax.vmap(jax.grad(lambda v: to_line(v.reshape(1, 1, 1, 1))[0].sum()))(x.ravel()) / 255
    np.testing.assert_allclose(stretched, [np.log(diagonal).sum()], rtol=1e-12)


def test_density_integrates_to_one(x64):
    """Over all 2x2 images, by the trapezoidal rule on the logits; ReLU's kinks leave an error of third order."""
    model = Flow.initial(FlowParams(levels=1, steps=2, width=3), (2, 2, 1), 2, key(0))
    params = untidy(model.params, scale=0.2)
    line, step = np.linspace(-8, 8, 41, retstep=True)
    t = jnp.asarray(np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2))

    def mass(first):
        grid = jnp.concatenate([jnp.broadcast_to(first, t.shape), t], axis=1).reshape(-1, 2, 2, 1)
        x = from_line(grid)
        y = jax.nn.sigmoid(grid)
        levels_per_logit = 256 * y * (1 - y) / (1 - 2 * _MARGIN)
        density = jnp.exp(model.network.log_likelihood(params, x)[0])
        return (density * levels_per_logit.prod(axis=(1, 2, 3))).sum()

    total = jax.jit(lambda t: jax.lax.map(mass, t).sum())(t) * step**4
    assert total == pytest.approx(1, abs=1e-3)


def test_squeeze_takes_the_four_pixels_of_a_cell():
    x = jnp.arange(2 * 4 * 6 * 3, dtype=jnp.float32).reshape(2, 4, 6, 3)
    squeezed = squeeze(x)
    np.testing.assert_array_equal(squeezed[1, 1, 2], x[1, 2:4, 4:6].ravel())
    np.testing.assert_array_equal(unsqueeze(squeezed), x)


def test_untrained_flow_mixes_by_a_rotation_and_no_more(x64):
    """Its latents have the length of the logits, and its log determinant is zero."""
    network, x = FlowNetwork(2, 2, 4, (4, 4, 1)), jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 4, 1)))
    params = untidy(network.init(key(0), jnp.zeros((1, 4, 4, 1), jnp.float32))["params"], scale=0)
    z, log_det, _ = network.apply({"params": params}, x)
    np.testing.assert_allclose(jnp.linalg.norm(z, axis=1), jnp.linalg.norm(x.reshape(3, -1), axis=1), rtol=1e-12)
    np.testing.assert_array_equal(log_det, jnp.zeros(3))


def test_a_training_starts_from_channels_of_mean_0_and_variance_1():
    images = squares(64, 1, 0).images
    model = start("flow")
    params = model.network.started(model.params, jnp.asarray(images), key(0))
    _, _, hidden = model.network.flow.apply({"params": params}, to_line(jnp.asarray(images, jnp.float32) / 255)[0])
    for name in ("level_0_step_0", "level_1_step_0"):
        np.testing.assert_allclose(hidden[name].mean(axis=(0, 1, 2)), 0, atol=0.15)
        np.testing.assert_allclose(hidden[name].std(axis=(0, 1, 2)), 1, atol=0.15)
    before = start("flow").params
    jax.tree.map(np.testing.assert_array_equal, model.params, before)


@pytest.mark.parametrize("image_shape", [(28, 28, 1), (32, 32, 3)])
def test_default_fits_the_usual_images(image_shape):
    model = Flow(FlowParams(), image_shape, 10, {})
    params = jax.eval_shape(model.network.initial, key(0))
    log_p, hidden = jax.eval_shape(model.network.log_likelihood, params, jnp.zeros((2, *image_shape), jnp.float32))
    assert log_p.shape == (2,) and hidden["level_1_step_3"].shape[1:3] == (image_shape[0] // 4, image_shape[1] // 4)


@pytest.mark.parametrize("image_shape, levels, remedy", [
    ((28, 28, 1), 3, "set levels to 2 or less"), ((12, 30, 3), 2, "set levels to 1 or less"),
    ((27, 28, 1), 1, "pad them to even sides")])
def test_sides_that_cannot_be_halved_are_refused(image_shape, levels, remedy):
    with pytest.raises(TrainingError, match=rf"levels={levels}.*image_shape=\({image_shape[0]}.*{remedy}"):
        Flow.initial(FlowParams(levels=levels), image_shape, 10, key(0))
