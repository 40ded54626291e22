"""Potentials of one network that differ in the noise they hold (`nfk.models.protocol.NoisyPotential`)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt32

from nfk.fisher.scores import LogDensity
from nfk.models.fixed_noise import fixed_noise
from nfk.models.protocol import NoisyPotential

_ODD = 0x9E3779B1  # a prime near 2^32 / golden ratio: neighbouring places get unlike multipliers


def shared_noise(model: NoisyPotential, draws: int) -> LogDensity:
    """s(x) as the mean over `draws` noises, the same ones for all images; 0: without noise."""
    noise = jnp.asarray(fixed_noise((draws, *model.noise_shape))) if draws else None

    def log_density(params: Any, x: Float[Array, "h w c"], key: Array) -> Float[Array, ""]:
        del key
        return model.log_density_given(params, x, noise)

    return log_density


def own_noise(model: NoisyPotential, draws: int) -> LogDensity:
    """s(x) as the mean over `draws` noises of the image's own: a key folded with its content, so that they are the same
    in every pass."""
    def log_density(params: Any, x: Float[Array, "h w c"], key: Array) -> Float[Array, ""]:
        noise = jax.random.normal(jax.random.fold_in(key, content(x)), (draws, *model.noise_shape))
        return model.log_density_given(params, x, noise)

    return log_density


def content(x: Float[Array, "h w c"]) -> UInt32[Array, ""]:
    """A number of the image's bits and their places: other images have, but for one chance in 2^32, another."""
    bits = lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32).reshape(-1)
    places = (2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1) * jnp.uint32(_ODD)
    mixed = (bits ^ (bits >> 16)) * places
    return jnp.sum(mixed ^ (mixed >> 15), dtype=jnp.uint32)
