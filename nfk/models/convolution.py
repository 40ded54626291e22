"""Convolutions as matrix products, and the choice between them and XLA's own: the same maps, at different speeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from nfk.models.convolution_choice import quickest


def unfolded_convolution(
    lhs: Float[Array, "b h w c"],
    rhs: Float[Array, "i j e d"],
    window_strides: Sequence[int],
    padding: str | Sequence[Any],  # of pairs
    rhs_dilation: Sequence[int] = (1, 1),
    feature_group_count: int = 1,
) -> Float[Array, "b u v d"]:
    """`lax.conv_general_dilated` in NHWC, HWIO layout, its input undilated, as patches times kernel.

    For gradients per example: under `vmap` the kernel's gradient is a batched matrix product here, and in
    XLA a grouped convolution, with which DCGAN's scores take about twice as long on CPU (and `lax.scan` over
    training steps 4 to 18 times); other passes take about as long. Holds i * j / stride^2 times the input.
    """
    (rows, columns, channels, features), (down, right) = rhs.shape, window_strides
    (apart_down, apart_right), groups = rhs_dilation, feature_group_count
    if isinstance(padding, str):
        spans = (1 + (rows - 1) * apart_down, 1 + (columns - 1) * apart_right)
        padding = lax.padtype_to_pads(lhs.shape[1:3], spans, window_strides, padding)
    padded = jnp.pad(lhs, ((0, 0), *padding, (0, 0)))
    height = (padded.shape[1] - 1 - (rows - 1) * apart_down) // down + 1
    width = (padded.shape[2] - 1 - (columns - 1) * apart_right) // right + 1
    patches = [
        padded[:, top : top + (height - 1) * down + 1 : down, left : left + (width - 1) * right + 1 : right]
        for top in range(0, rows * apart_down, apart_down) for left in range(0, columns * apart_right, apart_right)
    ]
    if groups == 1:
        return jnp.concatenate(patches, axis=-1) @ rhs.reshape(rows * columns * channels, features)
    stacked = jnp.stack(patches, axis=-2).reshape(*patches[0].shape[:3], rows * columns, groups, channels)
    kernel = rhs.reshape(rows * columns, channels, groups, features // groups)
    return jnp.einsum("buvkgc,kcgd->buvgd", stacked, kernel).reshape(*patches[0].shape[:3], features)


def native_convolution(
    lhs: Float[Array, "b h w c"],
    rhs: Float[Array, "i j e d"],
    window_strides: Sequence[int],
    padding: str | Sequence[Any],  # of pairs
    rhs_dilation: Sequence[int] = (1, 1),
    feature_group_count: int = 1,
) -> Float[Array, "b u v d"]:
    """XLA's own: `lax.conv_general_dilated` in NHWC, HWIO layout."""
    return lax.conv_general_dilated(
        lhs, rhs, window_strides, padding, rhs_dilation=rhs_dilation, feature_group_count=feature_group_count,
        dimension_numbers=("NHWC", "HWIO", "NHWC"))


_WAYS = (("unfolded", unfolded_convolution), ("native", native_convolution))


def convolution(
    lhs: Float[Array, "b h w c"],
    rhs: Float[Array, "i j e d"],
    window_strides: Sequence[int],
    padding: str | Sequence[Any],  # of pairs
    lhs_dilation: Sequence[int] = (1, 1),
    rhs_dilation: Sequence[int] = (1, 1),
    feature_group_count: int = 1,
    **unused: Any,
) -> Float[Array, "b u v d"]:
    """The convolution by the way that is quickest for what is asked: for a single example (scores are taken one by
    one, under `vmap`) by timing, layer by layer (`convolution_choice.quickest`); for a batch, in training, unfolded
    on a CPU and XLA's own elsewhere; in float64 on a CPU always unfolded; with a dilated input always XLA's own.
    """
    options: dict[str, Any] = {
        "window_strides": list(window_strides), "padding": padding, "rhs_dilation": list(rhs_dilation),
        "feature_group_count": feature_group_count}
    if tuple(lhs_dilation) != (1, 1):
        return lax.conv_general_dilated(
            lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, ("NHWC", "HWIO", "NHWC"),
            feature_group_count)
    on_cpu = jax.default_backend() == "cpu"
    if on_cpu and lhs.dtype == jnp.float64:  # XLA has no fast convolution in float64 there: 10 times as long
        way = "unfolded"
    elif lhs.shape[0] == 1:
        way = quickest(_WAYS, lhs.shape, rhs.shape, json.dumps(options))
    else:
        way = "unfolded" if on_cpu else "native"
    return dict(_WAYS)[way](lhs, rhs, **options)


Conv = partial(nn.Conv, conv_general_dilated_cls=lambda: convolution)
"""`nn.Conv` computed by `convolution`: the same parameters and results."""


class DoublingConvolution(nn.Module):
    """Transposed 4x4 convolution of stride 2, SAME: (b, h, w, c) -> (b, 2h, 2w, features).

    Computed as a 2x2 convolution to 4 features channels, one group for each of the four pixels that come of
    one, since `nn.ConvTranspose`'s kernel gradient takes 4 to 8 times as long on CPU (Shi et al. 2016, "Is
    the deconvolution layer the same as a convolutional layer?").
    """

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w {self.features}"]:
        batch, height, width, _ = x.shape
        cells = Conv(4 * self.features, (2, 2), padding=1, use_bias=False, name="cells")(x)
        cells = cells.reshape(batch, height + 1, width + 1, 2, 2, self.features).transpose(0, 1, 3, 2, 4, 5)
        image = cells.reshape(batch, 2 * height + 2, 2 * width + 2, self.features)[:, 1:-1, 1:-1]
        if self.use_bias:
            image = image + self.param("bias", nn.initializers.zeros_init(), (1, 1, 1, self.features))
        return image
