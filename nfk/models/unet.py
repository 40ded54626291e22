"""A small U-Net of residual blocks, told a noise level: Ronneberger et al. 2015; Ho et al. 2020."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nfk.models.convolution import Conv
from nfk.models.resample import doubled, halved

Hidden = dict[str, Float[Array, "b ..."]]

_OCTAVES = 6
"""Of the noise level's sines and cosines, from half a turn over the unit interval up."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after group norm and SiLU; the noise level scales and shifts between them."""

    features: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], level: Float[Array, "b e"]
    ) -> Float[Array, "b h w {self.features}"]:
        inside = nn.silu(_normed(x, "norm_0"))
        inside = _normed(Conv(self.features, (3, 3), name="conv_0")(inside), "norm_1")
        scale, shift = jnp.split(nn.Dense(2 * self.features, name="level")(level)[:, None, None, :], 2, axis=-1)
        inside = Conv(self.features, (3, 3), name="conv_1")(nn.silu(inside * (1 + scale) + shift))
        if x.shape[-1] != self.features:
            x = Conv(self.features, (1, 1), name="skip")(x)
        return (x + inside) * (1 / math.sqrt(2))


class Attention(nn.Module):
    """Self-attention over places, one head, in a residual branch."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        batch, height, width, channels = x.shape
        places = _normed(x, "norm").reshape(batch, height * width, channels)
        query, key, value = jnp.split(nn.Dense(3 * channels, name="query_key_value")(places), 3, axis=-1)
        weights = jax.nn.softmax(jnp.einsum("bqc,bkc->bqk", query, key) * (1 / math.sqrt(channels)), axis=-1)
        mixed = nn.Dense(channels, name="out")(jnp.einsum("bqk,bkc->bqc", weights, value))
        return (x + mixed.reshape(x.shape)) * (1 / math.sqrt(2))


class UNet(nn.Module):
    """Images and noise levels in, images out: `width` channels at full size, twice as many at a half and a quarter of
    it. Sides that are no multiples of 4 are framed with zeros and cropped again."""

    width: int
    attention: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], level: Float[Array, " b"]
    ) -> tuple[Float[Array, "b h w c"], Hidden]:
        """`level` is a number around zero, such as log(sigma) / 4; the second result holds each block's output."""
        hidden: Hidden = {}
        (_, height, width, channels), wide = x.shape, 2 * self.width
        angles = level[:, None] * jnp.asarray([math.pi * 2.0**octave for octave in range(_OCTAVES)], x.dtype)[None, :]
        told = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)
        told = nn.silu(nn.Dense(wide, name="level")(told))

        frame = jnp.pad(x, ((0, 0), (0, -height % 4), (0, -width % 4), (0, 0)))
        x = Conv(self.width, (3, 3), name="first")(frame)
        full = x = hidden["down_0"] = ResidualBlock(self.width, name="down_0")(x, told)
        half = x = hidden["down_1"] = ResidualBlock(wide, name="down_1")(halved(x), told)
        x = ResidualBlock(wide, name="middle")(halved(x), told)
        if self.attention:
            x = Attention(name="attention")(x)
        hidden["middle"] = x
        for name, beside in (("up_1", half), ("up_0", full)):
            x = jnp.concatenate([doubled(x, *beside.shape[1:3]), beside], axis=-1)
            x = hidden[name] = ResidualBlock(beside.shape[-1], name=name)(x, told)
        x = nn.silu(_normed(x, "norm"))
        return Conv(channels, (3, 3), name="last")(x)[:, :height, :width], hidden


def _normed(x: Float[Array, "b h w c"], name: str) -> Float[Array, "b h w c"]:
    """Group norm of four groups, in the dtype of x: flax's own is of float32 at least, and of no other under strict
    promotion."""
    return nn.GroupNorm(4, force_float32_reductions=False, param_dtype=x.dtype, name=name)(x)
