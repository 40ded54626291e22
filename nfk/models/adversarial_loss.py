"""What two adversaries minimise.

Lim, Ye 2017 (hinge); Mao et al. 2017 (least squares); Zhai et al. 2019 (the generator's movement).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float


class Loss(NamedTuple):
    """What the two networks minimise, as functions of the discriminator's logits."""

    name: str
    discriminator: Callable[[Float[Array, " b"], Float[Array, " m"]], Float[Array, ""]]
    """Of logits of real images and of generated ones."""

    generator: Callable[[Float[Array, " m"]], Float[Array, ""]]
    """Of logits of generated images."""

    ignorance: float
    """The discriminator's loss where every logit is 0."""


def hinge_loss(real: Float[Array, " b"], fake: Float[Array, " m"]) -> Float[Array, ""]:
    """The discriminator's loss E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))]; 2 where D knows nothing."""
    return nn.relu(1 - real).mean() + nn.relu(1 + fake).mean()


def _mean_energy(fake: Float[Array, " m"]) -> Float[Array, ""]:
    return -fake.mean()


def least_squares_loss(real: Float[Array, " b"], fake: Float[Array, " m"]) -> Float[Array, ""]:
    """The discriminator's loss E[(sigmoid(D(x)) - 1)^2] + E[sigmoid(D(G(z)))^2]; 1/2 where D knows nothing.

    Mao et al. have no sigmoid; it is in the networks that Zhai et al. released.
    """
    return least_squares_generator_loss(real) + (nn.sigmoid(fake) ** 2).mean()


def least_squares_generator_loss(fake: Float[Array, " m"]) -> Float[Array, ""]:
    """E[(sigmoid(D(G(z))) - 1)^2]."""
    return (nn.sigmoid(-fake) ** 2).mean()


HINGE = Loss("hinge", hinge_loss, _mean_energy, 2.0)
LEAST_SQUARES = Loss("least_squares", least_squares_loss, least_squares_generator_loss, 0.5)


def movement(fake: Float[Array, "b h w c"], target: Float[Array, "b h w c"]) -> Float[Array, ""]:
    """E[(2 G(z) - 2 G'(z))^2], the mean over latents, pixels and channels, images scaled to [-1, 1].

    G' is the generator's moving average, at the same z and with batch statistics of its own, a constant to the
    gradient. Minimising -log p(x) + penalty * movement from x = G'(z) is one step of a chain that climbs the
    discriminator's density, the generator being what follows the chains of all z at once (Zhai et al. 2019, whose
    release has this term, "gamma"; its optional noise in x is not here).
    """
    return ((2 * (fake - target)) ** 2).mean()
