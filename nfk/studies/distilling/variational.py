"""VID-I: Ahn et al. 2019, "Variational information distillation for knowledge transfer", intermediate layers.

The mutual information of the teacher's map t and the student's s is at least H(t) + E log q(t | s), for any q; theirs
is normal, its mean a small network mu(s) of 1 x 1 convolutions, its variance one number a channel,
sigma_c^2 = softplus(a_c) + 1e-5.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nfk.studies.distilling.seen import Maps, Seen

BETA = 10.0
"""Of the mean over places and channels."""
_FIRST_VARIANCE = 5.0
_LEAST_VARIANCE = 1e-5


def negative_log_likelihood(
    mean: Float[Array, "b h w d"], teacher: Float[Array, "b h w d"], spread: Float[Array, " d"]
) -> Float[Array, ""]:
    """Mean over images, places and channels of log sigma_c + (t - mu)^2 / (2 sigma_c^2), spread = a; without the
    number log(2 pi) / 2."""
    variance = (jax.nn.softplus(spread) + _LEAST_VARIANCE)[None, None, None]
    return jnp.mean(jnp.log(variance) + (teacher - mean) ** 2 / variance) / 2


class VariationalInformation(nn.Module):
    @nn.compact
    def __call__(self, seen: Seen) -> Float[Array, ""]:
        losses = (Likelihood(name=f"pair_{index}")(maps) for index, maps in enumerate(seen.maps))
        return sum(losses, start=jnp.zeros(()))


class Likelihood(nn.Module):
    """-log q(t | s) of one pair of layers; mu has two hidden layers of the teacher's number of channels."""

    @nn.compact
    def __call__(self, maps: Maps) -> Float[Array, ""]:
        channels, x = maps.teacher.shape[-1], maps.student
        for layer in range(2):
            x = nn.relu(nn.Dense(channels, use_bias=False, name=f"hidden_{layer}")(x))
        mean = nn.Dense(channels, use_bias=False, name="mean")(x)
        first = math.log(math.expm1(_FIRST_VARIANCE - _LEAST_VARIANCE))
        return negative_log_likelihood(mean, maps.teacher, self.param("spread", nn.initializers.constant(first),
                                                                      (channels,)))
