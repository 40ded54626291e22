"""PixelCNN++: every pixel a mixture of discretised logistics given those before it in reading order.

Salimans, Karpathy, Chen, Kingma 2017; drawn from step by step as in Ramachandran et al. 2017, each unit computed once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8

from nfk.family_params import PixelCnnParams
from nfk.models.convolution import Conv
from nfk.models.exact_likelihood import ExactLikelihood, Hidden, told
from nfk.models.logistic_mixture import draw_pixel, log_probability, mixture, outputs_for
from nfk.training import unit_range


class CausalConv(nn.Module):
    """A convolution of kernel (i, j) that sees no row below its own, nor, unless `centred`, any column to the right.

    Of the whole image at once; or, given `column`, of the next part of it, a row or a pixel that starts there, with
    what came before kept in the collection `memory` ("rows": the last ones, the current one below).
    """

    features: int
    kernel: tuple[int, int]
    apart: int
    centred: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], column: Int[Array, ""] | None = None
    ) -> Float[Array, "b h w {self.features}"]:
        above, beside = ((size - 1) * self.apart for size in self.kernel)
        left, right = (beside // 2, beside // 2) if self.centred else (beside, 0)
        if column is None:
            seen = jnp.pad(x, ((0, 0), (above, 0), (left, right), (0, 0)))
            if self.is_mutable_collection("memory"):
                self.put_variable("memory", "rows", jnp.zeros_like(seen[:, : above + 1]))
        else:
            rows = self.get_variable("memory", "rows")
            rows = lax.dynamic_update_slice(rows, x, (0, above, column + left, 0))
            self.put_variable("memory", "rows", rows)
            seen = lax.dynamic_slice_in_dim(rows, column, left + x.shape[2] + right, axis=2)
        return Conv(self.features, self.kernel, padding="VALID", kernel_dilation=self.apart, name="conv")(seen)


def concat_elu(x: Float[Array, "b h w c"]) -> Float[Array, "b h w 2*c"]:
    """(elu(x), elu(-x))."""
    return nn.elu(jnp.concatenate([x, -x], axis=-1))


class GatedBlock(nn.Module):
    """x + a * sigmoid(g), where (a, g) is a convolution of a convolution of x, to the latter of which `aside`, the
    other stream, is added; concat_elu before each."""

    filters: int
    kernel: tuple[int, int]
    apart: int
    centred: bool

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w {self.filters}"],
        aside: Float[Array, "b h w {self.filters}"] | None = None,
        column: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b h w {self.filters}"], Float[Array, "b h w 2*{self.filters}"]]:
        """The block's output, and its hidden layer's."""
        hidden = CausalConv(self.filters, self.kernel, self.apart, self.centred, name="conv_0")(concat_elu(x), column)
        if aside is not None:
            hidden += nn.Dense(self.filters, name="aside")(concat_elu(aside))
        hidden = concat_elu(hidden)
        gated = CausalConv(2 * self.filters, self.kernel, self.apart, self.centred, name="conv_1")(hidden, column)
        values, gates = jnp.split(gated, 2, axis=-1)
        return x + values * nn.sigmoid(gates), hidden


class Above(NamedTuple):
    """What the rows above say of each pixel."""

    streams: tuple[Float[Array, "b h w f"], ...]
    """The downward stream after each block."""

    row: Float[Array, "b h w f"]
    """The row just above, where the rightward stream starts."""


class PixelCnnNetwork(nn.Module):
    """Two streams at full size: one sees the rows above, the other also what is left in its own row."""

    filters: int
    blocks: int
    outputs: int

    def setup(self) -> None:
        self.down_input = CausalConv(self.filters, (2, 3), 1, centred=True)
        self.row_input = CausalConv(self.filters, (1, 3), 1, centred=True)
        self.right_input = CausalConv(self.filters, (2, 1), 1, centred=False)
        self.down = [GatedBlock(self.filters, (2, 3), 2**index, centred=True) for index in range(self.blocks)]
        self.right = [GatedBlock(self.filters, (2, 2), 2**index, centred=False) for index in range(self.blocks)]
        self.output = nn.Dense(self.outputs)

    def __call__(self, x: Float[Array, "b h w c"]) -> tuple[Float[Array, "b h w {self.outputs}"], Hidden]:
        """The numbers that make every pixel's distribution given those before it, and the hidden layers' outputs."""
        x = _with_ones(x)
        above, hidden = self.look_above(jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1])
        outputs, found = self.look_left(jnp.pad(x, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :-1], above)
        return outputs, hidden | found

    def look_above(
        self, x: Float[Array, "b h w c"], column: Int[Array, ""] | None = None
    ) -> tuple[Above, Hidden]:
        """The downward stream of images (or of a row of them) that are already moved down by a pixel."""
        stream = self.down_input(x, column)
        streams, hidden = [], {"down_input": stream}
        for index, block in enumerate(self.down):
            stream, hidden[f"down_{index}_conv"] = block(stream, None, column)
            streams.append(stream)
            hidden[f"down_{index}"] = stream
        return Above(tuple(streams), self.row_input(x, column)), hidden

    def look_left(
        self, x: Float[Array, "b h w c"], above: Above, column: Int[Array, ""] | None = None
    ) -> tuple[Float[Array, "b h w {self.outputs}"], Hidden]:
        """The output of images (or of a pixel of them) that are already moved right by a pixel."""
        stream = above.row + self.right_input(x, column)
        hidden = {"right_input": stream}
        for index, block in enumerate(self.right):
            stream, hidden[f"right_{index}_conv"] = block(stream, above.streams[index], column)
            hidden[f"right_{index}"] = stream
        return self.output(nn.elu(stream)), hidden


def _with_ones(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c+1"]:
    """A channel of ones, which tells the image from the zeros around it."""
    return jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)


@dataclass(frozen=True)
class _Distribution:
    """log p(x) = sum over pixels and channels: a `nfk.models.exact_likelihood.Network`."""

    config: PixelCnnParams
    image_shape: tuple[int, int, int]

    @property
    def pixels(self) -> PixelCnnNetwork:
        channels = self.image_shape[2]
        outputs = outputs_for(self.config.mixtures, channels)
        return PixelCnnNetwork(self.config.filters, self.config.blocks, outputs)

    @partial(jax.jit, static_argnums=0)
    def initial(self, key: Key[Array, ""]) -> PyTree:
        return self.pixels.init(key, jnp.zeros((1, *self.image_shape), jnp.float32))["params"]

    def started(self, params: PyTree, images: UInt8[Array, "b h w c"], key: Key[Array, ""]) -> PyTree:
        """The parameters as they are."""
        del images, key
        return params

    def log_likelihood(self, params: PyTree, x: Float[Array, "b h w c"]) -> tuple[Float[Array, " b"], Hidden]:
        x = 2 * x - 1
        outputs, hidden = self.pixels.apply({"params": params}, x)
        return log_probability(mixture(outputs, x.shape[-1]), x).sum(axis=(1, 2, 3)), hidden

    def terms(
        self, params: PyTree, images: UInt8[Array, "b h w c"], key: Key[Array, ""]
    ) -> dict[str, Float[Array, " b"]]:
        """The log likelihood; the key is not used."""
        del key
        return told(self.log_likelihood(params, unit_range(images))[0], self.image_shape)

    @partial(jax.jit, static_argnums=(0, 3))
    def draw(self, params: PyTree, key: Key[Array, ""], count: int) -> Float[Array, "count h w c"]:
        """Row by row, each pixel by pixel. Costs as much as one evaluation; holds some rows of every layer."""
        height, width, channels = self.image_shape
        whole = jnp.zeros((count, *self.image_shape), jnp.float32)
        empty = jax.eval_shape(lambda: self.pixels.apply({"params": params}, whole, mutable=["memory"])[1]["memory"])
        empty = jax.tree.map(lambda rows: jnp.zeros(rows.shape, rows.dtype), empty)
        looking = partial(self.pixels.apply, mutable=["memory"])

        def draw_row(carry: PyTree, row_key: Array) -> tuple[PyTree, Array]:
            memory, previous = carry
            (above, _), memory = looking({"params": params, **memory}, previous, jnp.int32(0), method="look_above")

            def draw_next(carry: PyTree, place: PyTree) -> tuple[PyTree, Array]:
                (memory, left), (column, pixel_key) = carry, place
                here = jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, column, 1, axis=2), above)
                (outputs, _), memory = looking({"params": params, **memory}, left, here, column, method="look_left")
                x = draw_pixel(mixture(outputs[:, 0, 0], channels), pixel_key)[:, None, None]
                return (memory, _with_ones(x)), x[:, 0, 0]

            places = (jnp.arange(width), jax.random.split(row_key, width))
            (memory, _), row = lax.scan(draw_next, (memory, jnp.zeros((count, 1, 1, channels + 1))), places)
            memory = jax.tree.map(lambda rows: jnp.pad(rows[:, 1:], ((0, 0), (0, 1), (0, 0), (0, 0))), memory)
            row = jnp.moveaxis(row, 0, 1)
            return (memory, _with_ones(row[:, None])), row

        start = ({"memory": empty}, jnp.zeros((count, 1, width, channels + 1)))
        _, rows = lax.scan(draw_row, start, jax.random.split(key, height))
        return jnp.clip((jnp.moveaxis(rows, 0, 1) + 1) / 2, 0, 1)


@dataclass(frozen=True)
class PixelCnn(ExactLikelihood):
    """A PixelCNN++: s(x) = log p(x) in nats, the probability of an 8-bit image; samples are 8-bit images.

    Of x between two levels, as other models draw it, every pixel is taken as the centre of a bin one level wide, and
    as such is seen by the pixels after it.
    """

    config: PixelCnnParams

    @property
    def network(self) -> _Distribution:
        return _Distribution(self.config, self.image_shape)
