"""The layers of a family's discriminator under another head."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from nfk.evaluation.activations import hidden_layers
from nfk.training import unit_range

Variables = dict[str, Any]
Hidden = dict[str, Float[Array, "b ..."]]


class Headed(nn.Module):
    """`body`'s last hidden layer, flattened and batch-normalised, and a dense layer to `outputs`.

    The body is a discriminator of `nfk.models.adversarial.Adversaries`, spectral norms and all; its own dense layer is
    there and not used. Spectral norms shrink what differs between images to a tenth of what is common to them: without
    the batch norm the head starts all but blind, and BiGAN's encoder stays so.
    """

    body: nn.Module
    outputs: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> tuple[Float[Array, "b o"], Hidden]:
        """`train` takes one power iteration more of every spectral norm, and the batch's own mean and variance."""
        _, hidden = self.body(x, update_stats=train)
        last = list(hidden.values())[-1].reshape(len(x), -1)
        last = nn.BatchNorm(use_running_average=not train, momentum=0.95, name="norm")(last)
        return nn.Dense(self.outputs, name="head")(last), hidden


def started(network: Headed, image_shape: tuple[int, int, int], key: Key[Array, ""]) -> Variables:
    """The first weights."""
    # two images, not one: for one alone every convolution would be timed
    return jax.jit(partial(network.init, train=True))(key, jnp.zeros((2, *image_shape)))


def outputs(network: Headed, variables: Variables, images: UInt8[np.ndarray, "n h w c"]
            ) -> dict[str, Float[np.ndarray, "n _"]]:
    """The head's outputs, as "head", and every hidden layer by name, pooled and flattened, of each image."""
    def batch(block: UInt8[np.ndarray, "b h w c"]) -> Hidden:
        head, hidden = _applied(network, variables, unit_range(jnp.asarray(block)))
        return {**hidden, "head": head}

    return hidden_layers(batch, images)


@partial(jax.jit, static_argnums=0)
def _applied(network: Headed, variables: Variables, images: Float[Array, "b h w c"]
             ) -> tuple[Float[Array, "b o"], Hidden]:
    return network.apply(variables, images)
