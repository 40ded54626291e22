"""Convolutions as matrix products: the same maps as XLA's, much faster where XLA's are slow on CPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def unfolded_convolution(
    lhs: Float[Array, "b h w c"],
    rhs: Float[Array, "i j c d"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **unused: Any,
) -> Float[Array, "b u v d"]:
    """`lax.conv_general_dilated` in NHWC, HWIO layout, undilated and ungrouped, as patches times kernel.

    For gradients per example: under `vmap` the kernel's gradient is a batched matrix product here, and in
    XLA a grouped convolution, with which DCGAN's scores take about twice as long on CPU (and `lax.scan` over
    training steps 4 to 18 times); other passes take about as long. Holds i * j / stride^2 times the input.
    """
    (rows, columns, channels, features), (down, right) = rhs.shape, window_strides
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], (rows, columns), window_strides, padding)
    padded = jnp.pad(lhs, ((0, 0), *padding, (0, 0)))
    height = (padded.shape[1] - rows) // down + 1
    width = (padded.shape[2] - columns) // right + 1
    patches = [
        padded[:, i : i + (height - 1) * down + 1 : down, j : j + (width - 1) * right + 1 : right]
        for i in range(rows) for j in range(columns)
    ]
    return jnp.concatenate(patches, axis=-1) @ rhs.reshape(rows * columns * channels, features)


UnfoldedConv = partial(nn.Conv, conv_general_dilated_cls=lambda: unfolded_convolution)
"""`nn.Conv` computed by `unfolded_convolution`: the same parameters and results."""


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
        cells = UnfoldedConv(4 * self.features, (2, 2), padding=1, use_bias=False, name="cells")(x)
        cells = cells.reshape(batch, height + 1, width + 1, 2, 2, self.features).transpose(0, 1, 3, 2, 4, 5)
        image = cells.reshape(batch, 2 * height + 2, 2 * width + 2, self.features)[:, 1:-1, 1:-1]
        if self.use_bias:
            image = image + self.param("bias", nn.initializers.zeros_init(), (1, 1, 1, self.features))
        return image
