"""A normalizing flow on images: affine couplings between learnt mixtures of channels, at several scales.

Dinh, Sohl-Dickstein, Bengio 2017 (RealNVP: couplings, squeeze, scales, the logit); Kingma, Dhariwal 2018 (Glow: steps
with an invertible 1x1 convolution).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Key, PyTree, UInt8
from scipy.fft import dct

from nfk.family_params import FlowParams
from nfk.models.convolution import Conv
from nfk.models.exact_likelihood import ExactLikelihood, Hidden, told
from nfk.training import TrainingError, unit_range

_MARGIN = 1e-4
"""Of the unit interval at either end, where the logit is too steep: RealNVP's alpha, there 0.05. With less of it the
cells of black and white are as wide on the line as a pixel's other intensities, not spikes that take long to learn."""
_LEAST_VARIANCE = 1e-4


class Mixing(nn.Module):
    """y = x K + bias over channels, K = Q L U: a 1x1 convolution.

    Q is the orthonormal discrete cosine transform, which mixes all channels (of a squeezed grey image: into the mean
    of 2x2 pixels and their differences), and `factors` holds L below its diagonal (ones on it), U above and log diag U
    on it: K = Q at the start, log |det K| = trace(factors), and no entry is without effect. It is Glow's 1x1
    convolution and actnorm in one, where diag U and the latter's scale would be two parameters for one number.
    """

    channels: int

    def setup(self) -> None:
        self.factors = self.param("factors", nn.initializers.zeros, (self.channels, self.channels), jnp.float32)
        self.bias = self.param("bias", nn.initializers.zeros, (self.channels,), jnp.float32)

    def __call__(
        self, x: Float[Array, "b h w c"], standardise: bool = False
    ) -> tuple[Float[Array, "b h w c"], Float[Array, ""]]:
        """y, and log |det dy/dx|, the same for every x; `standardise` makes y's channels of mean 0 and variance 1 by
        parameters of its own, which then need to be mutable."""
        factors, bias = self.factors, self.bias
        if standardise:
            turned = x @ self._turn
            factors = jnp.diag(-0.5 * jnp.log(turned.var(axis=(0, 1, 2)) + _LEAST_VARIANCE))
            bias = -turned.mean(axis=(0, 1, 2)) * jnp.exp(jnp.diag(factors))
            self.put_variable("params", "factors", factors)
            self.put_variable("params", "bias", bias)
        lower, upper = _triangles(factors)
        y = x @ (self._turn @ lower @ upper) + bias[None, None, None, :]
        return y, jnp.trace(factors) * (x.shape[1] * x.shape[2])

    def inverse(self, y: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """x of y."""
        lower, upper = _triangles(self.factors)
        identity = jnp.eye(self.channels, dtype=y.dtype)
        back = solve_triangular(upper, identity) @ solve_triangular(lower, identity, lower=True) @ self._turn.T
        return (y - self.bias[None, None, None, :]) @ back

    @property
    def _turn(self) -> Float[Array, "c c"]:
        return jnp.asarray(dct(np.eye(self.channels), norm="ortho"), self.factors.dtype)


def _triangles(factors: Float[Array, "c c"]) -> tuple[Float[Array, "c c"], Float[Array, "c c"]]:
    """L and U."""
    upper = jnp.triu(factors, 1) + jnp.diag(jnp.exp(jnp.diag(factors)))
    return jnp.eye(len(factors), dtype=factors.dtype) + jnp.tril(factors, -1), upper


class Conditioner(nn.Module):
    """Shift and log scale of half the channels, given the other half: 3x3, 1x1 and 3x3 convolutions, ReLU between.

    The last starts at zero. Log scales are 2 tanh(. / 2), between -2 and 2.
    """

    width: int

    @nn.compact
    def __call__(
        self, kept: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w c"], list[Float[Array, "b h w {self.width}"]]]:
        """Shift, log scale, and the two hidden layers' outputs."""
        first = nn.relu(Conv(self.width, (3, 3), name="conv_0")(kept))
        second = nn.relu(Conv(self.width, (1, 1), name="conv_1")(first))
        last = Conv(2 * kept.shape[-1], (3, 3), kernel_init=nn.initializers.zeros, name="conv_2")(second)
        shift, log_scale = jnp.split(last, 2, axis=-1)
        return shift, 2 * jnp.tanh(log_scale / 2), [first, second]


class Step(nn.Module):
    """A mixing of the channels, then y = (kept, (moved + shift(kept)) * scale(kept)) of their halves."""

    channels: int
    width: int

    def setup(self) -> None:
        self.mixing = Mixing(self.channels)
        self.conditioner = Conditioner(self.width)

    def __call__(
        self, x: Float[Array, "b h w c"], standardise: bool = False
    ) -> tuple[Float[Array, "b h w c"], Float[Array, " b"], list[Float[Array, "b h w _"]]]:
        """y, log |det dy/dx|, and the hidden layers' outputs, y the last of them."""
        x, log_det = self.mixing(x, standardise)
        kept, moved = jnp.split(x, 2, axis=-1)
        shift, log_scale, hidden = self.conditioner(kept)
        y = jnp.concatenate([kept, (moved + shift) * jnp.exp(log_scale)], axis=-1)
        return y, log_scale.sum(axis=(1, 2, 3)) + log_det[None], [*hidden, y]

    def inverse(self, y: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """x of y."""
        kept, moved = jnp.split(y, 2, axis=-1)
        shift, log_scale, _ = self.conditioner(kept)
        return self.mixing.inverse(jnp.concatenate([kept, moved * jnp.exp(-log_scale) - shift], axis=-1))


class FlowNetwork(nn.Module):
    """A bijection of (h, w, c) and R^(h w c): at each of `levels` scales a squeeze and `steps` steps; half the
    channels then leave for good (Dinh et al. 2017), until at the last scale all do."""

    levels: int
    steps: int
    width: int
    image_shape: tuple[int, int, int]

    def setup(self) -> None:
        channels = 4 * self.image_shape[2]
        self.scales = [[Step(channels * 2**level, self.width) for _ in range(self.steps)]
                       for level in range(self.levels)]

    def __call__(
        self, x: Float[Array, "b h w c"], standardise: bool = False
    ) -> tuple[Float[Array, "b d"], Float[Array, " b"], Hidden]:
        """z, log |det dz/dx|, and the hidden layers' outputs by name."""
        log_det, left = jnp.zeros(len(x), x.dtype), []
        hidden: Hidden = {}
        for level, scale in enumerate(self.scales):
            x = squeeze(x)
            for index, step in enumerate(scale):
                x, gained, outputs = step(x, standardise)
                log_det += gained
                hidden |= {f"level_{level}_step_{index}{layer}": output
                           for layer, output in zip(("_conv_0", "_conv_1", ""), outputs, strict=True)}
            if level < self.levels - 1:
                x, leaving = jnp.split(x, 2, axis=-1)
                left.append(leaving)
        return jnp.concatenate([part.reshape(len(x), -1) for part in [*left, x]], axis=1), log_det, hidden

    def inverse(self, z: Float[Array, "b d"]) -> Float[Array, "b h w c"]:
        """x of z."""
        height, width, channels = self.image_shape
        taken = 0

        def take(level: int, halves: int) -> Array:
            nonlocal taken
            shape = (height >> level + 1, width >> level + 1, halves * channels << level + 1)
            taken, start = taken + math.prod(shape), taken
            return z[:, start:taken].reshape(len(z), *shape)

        left = [take(level, halves=1) for level in range(self.levels - 1)]
        x = take(self.levels - 1, halves=2)
        for level in reversed(range(self.levels)):
            if level < self.levels - 1:
                x = jnp.concatenate([x, left[level]], axis=-1)
            for step in reversed(self.scales[level]):
                x = step.inverse(x)
            x = unsqueeze(x)
        return x


def squeeze(x: Float[Array, "b h w c"]) -> Float[Array, "b h/2 w/2 4*c"]:
    """Each 2x2 pixels as one of four times the channels."""
    batch, height, width, channels = x.shape
    cells = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return cells.reshape(batch, height // 2, width // 2, 4 * channels)


def unsqueeze(x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c/4"]:
    """The inverse of `squeeze`."""
    batch, height, width, channels = x.shape
    cells = x.reshape(batch, height, width, 2, 2, channels // 4).transpose(0, 1, 3, 2, 4, 5)
    return cells.reshape(batch, 2 * height, 2 * width, channels // 4)


def to_line(x: Float[Array, "b h w c"]) -> tuple[Float[Array, "b h w c"], Float[Array, " b"]]:
    """t = logit(y), y = a + (1 - 2 a) v / 256 of x in [0, 1], v = 255 x + 1/2 the place on the scale of 256 cells of
    one level each; and sum log dt/dv. Cells reach from x = -1/510 to 1 + 1/510; a level lies in the middle of its own.
    """
    share = (1 - 2 * _MARGIN) / 256
    log_y, log_rest = (jnp.log(_MARGIN + share * (255 * part + 0.5)) for part in (x, 1 - x))
    return log_y - log_rest, (math.log(share) - log_y - log_rest).sum(axis=(1, 2, 3))


def from_line(t: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """The inverse of `to_line`, not yet clipped."""
    return ((nn.sigmoid(t) - _MARGIN) * (256 / (1 - 2 * _MARGIN)) - 0.5) / 255


def _dequantised(images: UInt8[Array, "b h w c"], key: Key[Array, ""]) -> Float[Array, "b h w c"]:
    """Every pixel at a uniformly drawn place of its level's cell."""
    return unit_range(images) + jax.random.uniform(key, images.shape, minval=-0.5, maxval=0.5) / 255


@dataclass(frozen=True)
class _Density:
    """log p(x) = log N(z; 0, I) + log |det dz/dv|: a `nfk.models.exact_likelihood.Network`."""

    config: FlowParams
    image_shape: tuple[int, int, int]

    @property
    def flow(self) -> FlowNetwork:
        return FlowNetwork(self.config.levels, self.config.steps, self.config.width, self.image_shape)

    @partial(jax.jit, static_argnums=0)
    def initial(self, key: Key[Array, ""]) -> PyTree:
        return self.flow.init(key, jnp.zeros((1, *self.image_shape), jnp.float32))["params"]

    @partial(jax.jit, static_argnums=0)
    def started(self, params: PyTree, images: UInt8[Array, "b h w c"], key: Key[Array, ""]) -> PyTree:
        """Every step's channels of mean 0 and variance 1 on these images, by its mixing (Kingma, Dhariwal 2018): the
        logits of dark images lie so far from 0 that a training from there spends its first epochs on the way."""
        t, _ = to_line(_dequantised(images, key))
        return self.flow.apply({"params": params}, t, standardise=True, mutable=["params"])[1]["params"]

    def log_likelihood(self, params: PyTree, x: Float[Array, "b h w c"]) -> tuple[Float[Array, " b"], Hidden]:
        """In nats, of the density of v = 255 x + 1/2, in cells of one level a side."""
        t, stretched = to_line(x)
        z, log_det, hidden = self.flow.apply({"params": params}, t)
        return stretched + log_det - 0.5 * (z**2 + math.log(2 * math.pi)).sum(axis=1), hidden

    def terms(
        self, params: PyTree, images: UInt8[Array, "b h w c"], key: Key[Array, ""]
    ) -> dict[str, Float[Array, " b"]]:
        """The log likelihood with every pixel at a uniformly drawn place of its level's cell."""
        return told(self.log_likelihood(params, _dequantised(images, key))[0], self.image_shape)

    @partial(jax.jit, static_argnums=(0, 3))
    def draw(self, params: PyTree, key: Key[Array, ""], count: int) -> Float[Array, "count h w c"]:
        z = jax.random.normal(key, (count, math.prod(self.image_shape)))
        return jnp.clip(from_line(self.flow.apply({"params": params}, z, method="inverse")), 0, 1)


@dataclass(frozen=True)
class Flow(ExactLikelihood):
    """A normalizing flow: s(x) = log p(x) in nats, the density per intensity level, every pixel in the middle of its
    level's cell. Samples are not rounded to levels, only clipped to [0, 1]."""

    config: FlowParams

    def __post_init__(self) -> None:
        sides, multiple = self.image_shape[:2], 2**self.config.levels
        if any(side % multiple for side in sides):
            possible = min((side & -side).bit_length() - 1 for side in sides)
            remedy = f"set levels to {possible} or less in params.yaml" if possible else "pad them to even sides"
            raise TrainingError(f"flow of levels={self.config.levels} on images of image_shape={self.image_shape}: "
                                f"both sides must be multiples of {multiple}; {remedy}")

    @property
    def network(self) -> _Density:
        return _Density(self.config, self.image_shape)
