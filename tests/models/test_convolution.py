"""The matrix-product convolutions against XLA's, values and gradients, in float64."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from nfk.models.convolution import DoublingConvolution, UnfoldedConv


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def draw(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape))


@pytest.mark.parametrize("kernel, stride, padding, size", [
    ((4, 4), (2, 2), "SAME", (7, 8)),
    ((5, 5), (1, 1), "VALID", (8, 6)),
    ((2, 3), (1, 2), ((1, 1), (0, 2)), (5, 7)),
])
def test_unfolded_convolution_is_the_convolution(x64, kernel, stride, padding, size):
    settings = {"features": 5, "kernel_size": kernel, "strides": stride, "padding": padding}
    params = {"kernel": draw(*kernel, 2, 5), "bias": draw(5)}
    x = draw(3, *size, 2)

    def value_and_gradients(layer):
        def loss(params, x):
            y = layer.apply({"params": params}, x)
            return (y**2).sum(), y
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(params, x)

    ours, theirs = value_and_gradients(UnfoldedConv(**settings)), value_and_gradients(nn.Conv(**settings))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), ours, theirs)


def test_unfolded_conv_has_the_parameters_of_conv():
    x = jnp.zeros((1, 8, 8, 3))
    ours, theirs = (jax.eval_shape(layer(5, (4, 4)).init, jax.random.key(0), x) for layer in (UnfoldedConv, nn.Conv))
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
