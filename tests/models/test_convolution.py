"""The matrix-product convolutions against XLA's, values and gradients, in float64."""

import json
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from nfk.models.convolution import Conv, DoublingConvolution, convolution, native_convolution, unfolded_convolution
from nfk.models.convolution_choice import quickest


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def draw(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape))


@pytest.mark.parametrize("way", [unfolded_convolution, native_convolution, convolution])
@pytest.mark.parametrize("options", [
    {"kernel_size": (4, 4), "strides": (2, 2), "padding": "SAME"},
    {"kernel_size": (5, 5), "strides": (1, 1), "padding": "VALID"},
    {"kernel_size": (2, 3), "strides": (1, 2), "padding": ((1, 1), (0, 2))},
    {"kernel_size": (3, 3), "kernel_dilation": (2, 1), "strides": (1, 2)},
    {"kernel_size": (3, 2), "feature_group_count": 3, "strides": (2, 1)},
])
@pytest.mark.parametrize("batch", [1, 3])
def test_every_way_is_the_convolution(x64, way, options, batch):
    settings = {"features": 6, **options}
    x = draw(batch, 7, 8, 6)
    params = {"kernel": draw(*options["kernel_size"], 6 // options.get("feature_group_count", 1), 6), "bias": draw(6)}

    def value_and_gradients(layer):
        def loss(params, x):
            y = layer.apply({"params": params}, x)
            return (y**2).sum(), y
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(params, x)

    def ours(lhs, rhs, strides, padding, lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count, **_):
        return way(lhs, rhs, strides, padding, rhs_dilation=rhs_dilation, feature_group_count=feature_group_count)

    found = value_and_gradients(nn.Conv(**settings, conv_general_dilated_cls=lambda: ours))
    expected = value_and_gradients(nn.Conv(**settings))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), found, expected)


def test_a_dilated_input_is_left_to_xla(x64):
    x, params = draw(1, 5, 5, 2), {"kernel": draw(3, 3, 2, 4), "bias": draw(4)}
    ours, theirs = (layer(4, (3, 3), input_dilation=2, padding=1).apply({"params": params}, x)
                    for layer in (Conv, nn.Conv))
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


class TestChoice:
    """By timing, one example at a time; kept, so that every process computes alike."""

    def ways(self, slow):
        def late(x):
            time.sleep(0.02 if slow else 0)
            return x

        def waiting(x, kernel, **options):
            return jnp.sum(x) * jnp.sum(kernel) * jax.pure_callback(late, jax.ShapeDtypeStruct((), x.dtype),
                                                                     jax.lax.stop_gradient(x.sum()),
                                                                     vmap_method="sequential")

        return (("first", waiting), ("second", lambda x, kernel, **options: jnp.sum(x) * jnp.sum(kernel)))

    def test_the_quicker_is_taken_and_kept(self, tmp_path, monkeypatch):
        monkeypatch.setenv("NFK_CACHE", str(tmp_path))
        assert quickest(self.ways(slow=True), (1, 2, 2, 1), (1, 1, 1, 1), "{}") == "second"
        (key, kept), = json.loads((tmp_path / "convolutions.json").read_text()).items()
        assert kept == "second"
        (tmp_path / "convolutions.json").write_text(json.dumps({key: "first"}))
        quickest.cache_clear()
        assert quickest(self.ways(slow=True), (1, 2, 2, 1), (1, 1, 1, 1), "{}") == "first"

    def test_a_damaged_cache_is_made_again(self, tmp_path, monkeypatch):
        monkeypatch.setenv("NFK_CACHE", str(tmp_path))
        (tmp_path / "convolutions.json").write_text("{")
        assert quickest(self.ways(slow=True), (1, 3, 2, 1), (1, 1, 1, 1), "{}") == "second"
        assert list(json.loads((tmp_path / "convolutions.json").read_text()).values()) == ["second"]

    def test_it_is_made_inside_a_trace(self, tmp_path, monkeypatch):
        monkeypatch.setenv("NFK_CACHE", str(tmp_path))
        x, kernel = jnp.ones((4, 1, 6, 6, 2)), jnp.ones((3, 3, 2, 5))

        @jax.jit
        def gradients(x, kernel):
            def value(kernel, one):
                return convolution(one, kernel, (1, 1), "SAME").sum()
            return jax.vmap(jax.grad(value), in_axes=(None, 0))(kernel, x)

        assert gradients(x, kernel).shape == (4, 3, 3, 2, 5)
        assert set(json.loads((tmp_path / "convolutions.json").read_text()).values()) <= {"unfolded", "native"}


def test_unfolded_conv_has_the_parameters_of_conv():
    x = jnp.zeros((1, 8, 8, 3))
    ours, theirs = (jax.eval_shape(layer(5, (4, 4)).init, jax.random.key(0), x) for layer in (Conv, nn.Conv))
    assert ours == theirs


def test_doubling_is_the_transposed_convolution_of_the_same_kernel(x64):
    channels, features = 3, 2
    x, cells = draw(4, 3, 5, channels), draw(2, 2, channels, 4 * features)
    bias = draw(1, 1, 1, features)
    # cells[i, j, :, (a, b, :)] is row 2 i + 1 - a, column 2 j + 1 - b of the transposed convolution's kernel
    kernel = cells.reshape(2, 2, channels, 2, 2, features)[:, :, :, ::-1, ::-1].transpose(0, 3, 1, 4, 2, 5)
    kernel = kernel.reshape(4, 4, channels, features)
    ours = DoublingConvolution(features).apply({"params": {"cells": {"kernel": cells}, "bias": bias}}, x)
    np.testing.assert_allclose(ours, lax.conv_transpose(x, kernel, (2, 2), "SAME") + bias, atol=1e-12)
