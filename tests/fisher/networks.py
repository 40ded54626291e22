"""Small potentials of every kind of layer that matters, in the dtype of their parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def weights(seed: int, dtype=np.float32) -> dict:
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(rng.standard_normal(shape) / np.sqrt(np.prod(shape[:-1])), dtype)

    return {"conv": {"kernel": draw(3, 3, 1, 4), "bias": draw(4)},
            "dense": {"kernel": draw(64, 5), "bias": draw(5)}, "unused": draw(3)}


def log_density(params, x, key):
    """logsumexp of a strided convolution, a shared kernel and a dense layer; `unused` never matters."""
    del key
    kernel = params["conv"]["kernel"]
    hidden = jax.lax.conv_general_dilated(
        x[None], kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    hidden = jnp.tanh(hidden + params["conv"]["bias"][None, None, None, :])
    logits = hidden.reshape(-1) @ params["dense"]["kernel"] + params["dense"]["bias"]
    return jax.nn.logsumexp(logits) + 0 * params["unused"].sum() + jnp.sum(kernel**2) * jnp.mean(x)


def images(n: int, seed: int = 0, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(n, 8, 8, 1)).astype(dtype)
