"""NST: Huang, Wang 2017, "Like what you like: knowledge distill via neuron selectivity transfer".

Each channel's map over the h w places, at unit length, is one point; the student's channels are to be distributed as
the teacher's: the squared maximum mean discrepancy under k(x, y) = <x, y>^2, their polynomial kernel (d = 2, c = 0).
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from nfk.studies.distilling.seen import Seen

BETA = 50.0
"""Theirs for this kernel."""
_TINY = 1e-12


def discrepancy(student: Float[Array, "b h w c"], teacher: Float[Array, "b h w d"]) -> Float[Array, ""]:
    """Half the mean over images of MMD^2 = mean k(s, s') + mean k(t, t') - 2 mean k(s, t).

    Costs h w (c + d)^2 multiply-adds an image.
    """
    ours, theirs = _points(student), _points(teacher)
    return (_mean_kernel(ours, ours) + _mean_kernel(theirs, theirs) - 2 * _mean_kernel(ours, theirs)) / 2


def _points(maps: Float[Array, "b h w c"]) -> Float[Array, "b h*w c"]:
    points = maps.reshape(len(maps), -1, maps.shape[-1])
    return points / jnp.sqrt(jnp.sum(points**2, axis=1, keepdims=True) + _TINY)


def _mean_kernel(left: Float[Array, "b p c"], right: Float[Array, "b p d"]) -> Float[Array, ""]:
    return jnp.mean(jnp.einsum("bpc,bpd->bcd", left, right) ** 2)


class SelectivityTransfer(nn.Module):
    def __call__(self, seen: Seen) -> Float[Array, ""]:
        return sum((discrepancy(maps.student, maps.teacher) for maps in seen.maps), start=jnp.zeros(()))
