"""AT: Zagoruyko, Komodakis 2017, "Paying more attention to attention", activation-based."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from nfk.studies.distilling.seen import Seen

BETA = 1000.0
"""Theirs, of the mean over images and places."""
_TINY = 1e-12


def attention_map(maps: Float[Array, "b h w c"]) -> Float[Array, "b h*w"]:
    """The sum over channels of squares at each place, divided by its L2 norm over places."""
    energy = jnp.sum(maps**2, axis=-1).reshape(len(maps), -1)
    return energy / jnp.sqrt(jnp.sum(energy**2, axis=1, keepdims=True) + _TINY)


def attention_distance(student: Float[Array, "b h w c"], teacher: Float[Array, "b h w d"]) -> Float[Array, ""]:
    """Half the mean over images and places of the squared difference of the attention maps."""
    return jnp.mean((attention_map(student) - attention_map(teacher)) ** 2) / 2


class AttentionTransfer(nn.Module):
    def __call__(self, seen: Seen) -> Float[Array, ""]:
        return sum((attention_distance(maps.student, maps.teacher) for maps in seen.maps), start=jnp.zeros(()))
