"""A pixel as a mixture of discretised logistics, its channels each linear in those before it (Salimans, Karpathy, Chen,
Kingma 2017)."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

_HALF = 1 / 255
"""Half a level's bin, where intensities span [-1, 1]."""
_STEEPEST = 7.0
"""Log scales are kept within +-7, so that neither a logistic's scale nor its inverse leaves float32's range."""


class Mixture(NamedTuple):
    """The joint distribution of a pixel's channels: k components, in each of which a channel's mean is linear in the
    channels before it. Intensities span [-1, 1]."""

    log_weights: Float[Array, "*n k"]
    means: Float[Array, "*n c k"]
    log_scales: Float[Array, "*n c k"]
    slopes: Float[Array, "*n s k"]
    """Of channel i in j < i at i (i - 1) / 2 + j, in (-1, 1)."""


def outputs_for(components: int, channels: int) -> int:
    """k (1 + 2 c + c (c - 1) / 2), the numbers that make a pixel's mixture of k components."""
    return components * (1 + 2 * channels + channels * (channels - 1) // 2)


def mixture(outputs: Float[Array, "*n o"], channels: int) -> Mixture:
    """The mixture that `outputs_for(k, c)` numbers make."""
    slopes = channels * (channels - 1) // 2
    parts = outputs.reshape(*outputs.shape[:-1], 1 + 2 * channels + slopes, -1)
    weights, means, log_scales, raw = jnp.split(parts, [1, 1 + channels, 1 + 2 * channels], axis=-2)
    return Mixture(nn.log_softmax(weights[..., 0, :]), means, jnp.clip(log_scales, -_STEEPEST, _STEEPEST),
                   jnp.tanh(raw))


def conditional_mean(pixel: Mixture, x: Float[Array, "*n c"], channel: int) -> Float[Array, "*n k"]:
    """Each component's mean of a channel given those before it in x (the others are not looked at)."""
    first = channel * (channel - 1) // 2
    terms = [pixel.slopes[..., first + before, :] * x[..., before, None] for before in range(channel)]
    return sum(terms, pixel.means[..., channel, :])


def log_probability(pixel: Mixture, x: Float[Array, "*n c"]) -> Float[Array, "*n c"]:
    """log p(x_c | x_0 .. x_(c - 1)) of every channel, in nats."""
    joint = [nn.logsumexp(pixel.log_weights, axis=-1)]
    components = pixel.log_weights
    for channel in range(x.shape[-1]):
        mean, log_scale = conditional_mean(pixel, x, channel), pixel.log_scales[..., channel, :]
        components = components + logistic_log_probability(x[..., channel, None], mean, log_scale)
        joint.append(nn.logsumexp(components, axis=-1))
    return jnp.diff(jnp.stack(joint, axis=-1), axis=-1)


def logistic_log_probability(
    x: Float[Array, "*n #k"], mean: Float[Array, "*n k"], log_scale: Float[Array, "*n k"]
) -> Float[Array, "*n k"]:
    """log(F(x + 1/255) - F(x - 1/255)), F(x) = sigmoid((x - mean) / scale): the probability of the bin around x, the
    first and the last reaching to infinity.

    By log(sigmoid(a) - sigmoid(b)) = log sigmoid(a) + log sigmoid(-b) + log(1 - exp(b - a)), with no difference of
    numbers that are nearly alike: exact in either tail.
    """
    steepness = jnp.exp(-log_scale)
    upper, lower = (x + _HALF - mean) * steepness, (x - _HALF - mean) * steepness
    first, last = _ends(x)
    below_upper = jnp.where(last, 0, nn.log_sigmoid(upper))
    above_lower = jnp.where(first, 0, nn.log_sigmoid(-lower))
    return below_upper + above_lower + jnp.where(first | last, 0, jnp.log(-jnp.expm1(-2 * _HALF * steepness)))


def _ends(x: Float[Array, "*n"]) -> tuple[Bool[Array, "*n"], Bool[Array, "*n"]]:
    """Where x belongs to the first level, where to the last."""
    return x < _HALF - 1, x > 1 - _HALF


def draw_pixel(pixel: Mixture, key: Key[Array, ""]) -> Float[Array, "n c"]:
    """Levels of the mixture's own, in [-1, 1]: a component for each pixel, then a rounded logistic each channel."""
    channels = pixel.means.shape[-2]
    component_key, logistic_key = jax.random.split(key)
    chosen = jax.random.categorical(component_key, pixel.log_weights)
    one = jax.tree.map(lambda a: jnp.take_along_axis(a, chosen[:, None, None], axis=-1), pixel[1:])
    one = Mixture(jnp.zeros_like(pixel.log_weights[:, :1]), *one)
    logistic = jax.random.logistic(logistic_key, (len(chosen), channels))
    x = jnp.zeros_like(logistic)
    for channel in range(channels):
        value = conditional_mean(one, x, channel) + jnp.exp(one.log_scales[:, channel]) * logistic[:, channel, None]
        x = x.at[:, channel].set(jnp.round((jnp.clip(value[:, 0], -1, 1) + 1) * 127.5) / 127.5 - 1)
    return x
