"""A hierarchical, very deep VAE: latent images at every resolution, the coarse ones first (Child 2020, "Very deep VAEs
generalize autoregressive models and can outperform them on images", arXiv 2011.10650)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree, UInt8

from nfk.family_params import VdvaeParams
from nfk.models.convolution import Conv
from nfk.models.exact_likelihood import bits_per_dimension, independent_pixels_log_likelihood
from nfk.models.logistic_mixture import draw_pixel, log_probability, mixture, outputs_for
from nfk.models.resample import doubled, halved
from nfk.models.vae import Bound, Hidden, Vae
from nfk.training import Check, TrainingError, at_least, unit_range

_BLOCK = 256
_CLIP = 1000.0
"""Bound of the gradient's norm, in nats an image."""
_WIDEST = 5.0
"""Log scales of latents are 5 tanh(. / 5), so that no divergence leaves float32's range (Vahdat, Kautz 2020)."""
_FINEST_POINTWISE = 2
"""Images of 2x2 and less are seen by 1x1 kernels: of 3x3 ones most entries would meet only the frame."""


def scaled(depth: int) -> Callable[..., Array]:
    """Kernels that start 1 / sqrt(depth) as large as usual, so that a sum of that many branches is none too large."""
    return nn.initializers.variance_scaling(1 / depth, "fan_in", "truncated_normal")


class Bottleneck(nn.Module):
    """1x1, two 3x3 and 1x1 convolutions, GELU before each; `middle` channels between them."""

    middle: int
    features: int
    last: Callable[..., Array]
    """The last kernel's initialiser."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w {self.features}"]:
        kernel = (1, 1) if min(x.shape[1:3]) <= _FINEST_POINTWISE else (3, 3)
        x = Conv(self.middle, (1, 1), name="conv_0")(nn.gelu(x))
        x = Conv(self.middle, kernel, name="conv_1")(nn.gelu(x))
        x = Conv(self.middle, kernel, name="conv_2")(nn.gelu(x))
        return Conv(self.features, (1, 1), kernel_init=self.last, name="conv_3")(nn.gelu(x))


class Normal(NamedTuple):
    """Independent normal distributions, one for each number."""

    mean: Float[Array, "*n"]
    log_scale: Float[Array, "*n"]

    @classmethod
    def of(cls, outputs: Float[Array, "b h w _"]) -> Normal:
        """Of twice as many channels, the second half the log scales."""
        mean, raw = jnp.split(outputs, 2, axis=-1)
        return cls(mean, _WIDEST * jnp.tanh(raw / _WIDEST))

    def at(self, noise: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """mean + scale noise."""
        return self.mean + jnp.exp(self.log_scale) * noise


def kl_divergence(q: Normal, p: Normal) -> Float[Array, "*n"]:
    """KL(q || p) of each number, in nats."""
    apart = (q.mean - p.mean) * jnp.exp(-p.log_scale)
    widening = q.log_scale - p.log_scale
    return 0.5 * (jnp.exp(2 * widening) + apart**2 - 1) - widening


def log_ratio(q: Normal, p: Normal, noise: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """log p(z) - log q(z) of each number at z = q.at(noise), in nats."""
    apart = (q.at(noise) - p.mean) * jnp.exp(-p.log_scale)
    return 0.5 * (noise**2 - apart**2) + q.log_scale - p.log_scale


class Latent(NamedTuple):
    """What one layer of latents adds to the bound, and the layer itself."""

    z: Float[Array, "b h w z"]
    kl: Float[Array, " b"]
    log_ratio: Float[Array, " b"]


class TopDownBlock(nn.Module):
    """x <- x + f(x) + W z, then x <- x + g(x): z ~ p(z | x) = prior(x), or ~ q(z | x, image) = posterior(x, seen)."""

    middle: int
    latent: int
    depth: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w f"], seen: Float[Array, "b h w f"] | None,
        noise: Float[Array, "b h w {self.latent}"],
    ) -> tuple[Float[Array, "b h w f"], Latent | None]:
        """The next x; and the latents, or None where, without `seen`, they are the prior's."""
        width = x.shape[-1]
        outputs = Bottleneck(self.middle, 2 * self.latent + width, nn.initializers.zeros, name="prior")(x)
        prior, found = Normal.of(outputs[..., : 2 * self.latent]), None
        if seen is None:
            z = prior.at(noise)
        else:
            both = jnp.concatenate([x, seen], axis=-1)
            usual = nn.initializers.lecun_normal()
            posterior = Normal.of(Bottleneck(self.middle, 2 * self.latent, usual, name="posterior")(both))
            z = posterior.at(noise)
            found = Latent(z, kl_divergence(posterior, prior).sum(axis=(1, 2, 3)),
                           log_ratio(posterior, prior, noise).sum(axis=(1, 2, 3)))
        x = x + outputs[..., 2 * self.latent :]
        x = x + Conv(width, (1, 1), kernel_init=scaled(self.depth), name="latent")(z)
        return x + Bottleneck(self.middle, width, scaled(self.depth), name="residual")(x), found


class Encoder(nn.Module):
    """Bottom-up: a 3x3 convolution, then at each resolution residual bottleneck blocks and a mean over 2x2 pixels,
    before the last resolution over all."""

    width: int
    middle: int
    blocks: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> tuple[list[Float[Array, "b _ _ {self.width}"]], Hidden]:
        """The last output at each resolution, and every block's by name."""
        x = Conv(self.width, (3, 3), name="first")(x)
        seen, hidden, last = [], {}, scaled(sum(self.blocks))
        for level, blocks in enumerate(self.blocks):
            if level:
                x = x.mean(axis=(1, 2), keepdims=True) if level == len(self.blocks) - 1 else halved(x)
            for index in range(blocks):
                name = f"block_{level}_{index}"
                x = x + Bottleneck(self.middle, self.width, last, name=name)(x)
                hidden[f"encoder_{level}_{index}"] = x
            seen.append(x)
        return seen, hidden


class Decoder(nn.Module):
    """Top-down: from a learnt start at the last resolution, its blocks; then pixels repeated to the next one's size, a
    learnt image added, its blocks, until full size."""

    width: int
    middle: int
    latent: int
    blocks: tuple[int, ...]
    sides: tuple[tuple[int, int], ...]
    outputs: int

    @nn.compact
    def __call__(
        self, seen: list[Float[Array, "b _ _ {self.width}"]] | None, noise: Float[Array, "b z"]
    ) -> tuple[Float[Array, "b h w {self.outputs}"], list[Latent], Hidden]:
        """The numbers that make every pixel's distribution, the latents from the coarsest (none without `seen`), and
        every block's latents and output by name. `noise` is cut in the order in which latents are drawn."""
        found, hidden, taken, x = [], {}, 0, None
        for level in reversed(range(len(self.blocks))):
            rows, columns = self.sides[level]
            start = self.param(f"start_{level}", nn.initializers.zeros, (1, rows, columns, self.width), jnp.float32)
            x = start.repeat(len(noise), axis=0) if x is None else self._enlarged(x, rows, columns) + start
            for index in range(self.blocks[level]):
                count = rows * columns * self.latent
                part = noise[:, taken : taken + count].reshape(-1, rows, columns, self.latent)
                taken += count
                block = TopDownBlock(self.middle, self.latent, sum(self.blocks), name=f"block_{level}_{index}")
                x, latent = block(x, None if seen is None else seen[level], part)
                if latent is not None:
                    found.append(latent)
                    hidden[f"latent_{level}_{index}"] = latent.z
                hidden[f"decoder_{level}_{index}"] = x
        gain = self.param("gain", nn.initializers.ones, (self.width,), jnp.float32)
        shift = self.param("shift", nn.initializers.zeros, (self.width,), jnp.float32)
        x = x * gain[None, None, None, :] + shift[None, None, None, :]
        return Conv(self.outputs, (1, 1), name="last")(x), found, hidden

    def _enlarged(self, x: Float[Array, "b h w c"], rows: int, columns: int) -> Float[Array, "b {rows} {columns} c"]:
        if x.shape[1:3] == (1, 1):
            return jnp.broadcast_to(x, (len(x), rows, columns, x.shape[-1]))
        return doubled(x, rows, columns)


def resolutions(image_shape: tuple[int, int, int], count: int) -> tuple[tuple[int, int], ...]:
    """Rows and columns at each of so many resolutions: full size, framed to whole numbers of halvings; a half, a
    quarter and so on; and last 1x1."""
    whole = 2 ** (count - 2)
    rows, columns = (-(-side // whole) * whole for side in image_shape[:2])
    return *((rows >> level, columns >> level) for level in range(count - 1)), (1, 1)


@dataclass(frozen=True)
class Vdvae(Vae):
    """A hierarchical VAE: p(x | z) is a mixture of discretised logistics a pixel, the probability of an 8-bit image;
    samples are 8-bit images."""

    config: VdvaeParams

    def __post_init__(self) -> None:
        count, most = len(self.config.decoder), 1 + min(self.image_shape[:2]).bit_length()
        if count > most:
            raise TrainingError(f"vdvae of {count} resolutions on images of image_shape={self.image_shape}: the last "
                                f"would be halved to nothing; give encoder and decoder {most} numbers or fewer in "
                                "params.yaml")

    @property
    def network(self) -> _Network:
        return _Network(self.config, self.image_shape)

    def sample(self, key: Key[Array, ""], count: int) -> Float[np.ndarray, "n h w c"]:
        """Images of the distribution, drawn by blocks of 256 with a key each."""
        keys = jax.random.split(key, -(-count // _BLOCK))
        return np.concatenate([np.asarray(_draw(self.network, self.params, each)) for each in keys])[:count]

    @property
    def descent(self) -> dict[str, Any]:
        return {"ema": self.config.ema, "clip": _CLIP, "cosine": True}

    def appraise(
        self, metrics: dict[str, float], images: UInt8[np.ndarray, "n h w c"], held_out: UInt8[np.ndarray, "m h w c"]
    ) -> list[Check]:
        return appraise(metrics, images, held_out)


@dataclass(frozen=True)
class _Network:
    """Encoder and decoder as one function of theta: a `nfk.models.vae.Network`."""

    config: VdvaeParams
    image_shape: tuple[int, int, int]

    @property
    def sides(self) -> tuple[tuple[int, int], ...]:
        return resolutions(self.image_shape, len(self.config.decoder))

    @property
    def latents(self) -> int:
        return sum(blocks * rows * columns * self.config.latent
                   for blocks, (rows, columns) in zip(self.config.decoder, self.sides, strict=True))

    @property
    def encoder(self) -> Encoder:
        return Encoder(self.config.width, self.config.middle, self.config.encoder)

    @property
    def decoder(self) -> Decoder:
        config = self.config
        return Decoder(config.width, config.middle, config.latent, config.decoder, self.sides,
                       outputs_for(config.mixtures, self.image_shape[2]))

    @partial(jax.jit, static_argnums=0)
    def initial(self, key: Key[Array, ""]) -> PyTree:
        encoder_key, decoder_key = jax.random.split(key)
        image = jnp.zeros((2, *self.sides[0], self.image_shape[2]), jnp.float32)
        (seen, _), encoder = self.encoder.init_with_output(encoder_key, image)
        decoder = self.decoder.init(decoder_key, seen, jnp.zeros((2, self.latents), jnp.float32))
        return {"encoder": encoder["params"], "decoder": decoder["params"]}

    def bound(
        self, params: PyTree, x: Float[Array, "b h w c"], noise: Float[Array, "b z"] | None
    ) -> tuple[Bound, Hidden]:
        x, (height, width, channels) = 2 * x - 1, self.image_shape
        frame = [(0, whole - side) for whole, side in zip(self.sides[0], (height, width), strict=True)]
        seen, encoded = self.encoder.apply({"params": params["encoder"]}, jnp.pad(x, ((0, 0), *frame, (0, 0))))
        noise = jnp.zeros((len(x), self.latents), x.dtype) if noise is None else noise
        outputs, found, decoded = self.decoder.apply({"params": params["decoder"]}, seen, noise)
        pixels = mixture(outputs[:, :height, :width], channels)
        bound = Bound(log_probability(pixels, x).sum(axis=(1, 2, 3)), sum(latent.kl for latent in found),
                      sum(latent.log_ratio for latent in found))
        return bound, encoded | decoded

    def terms(
        self, params: PyTree, images: UInt8[Array, "b h w c"], key: Key[Array, ""]
    ) -> dict[str, Float[Array, " b"]]:
        """The ELBO with one noise an image, its KL terms in closed form; their sum; and the ELBO in bits."""
        bound, _ = self.bound(params, unit_range(images), jax.random.normal(key, (len(images), self.latents)))
        return {"elbo": bound.elbo, "kl": bound.kl,
                "bits_per_dimension": bits_per_dimension(bound.elbo, self.image_shape)}


@partial(jax.jit, static_argnums=0)
def _draw(network: _Network, params: PyTree, key: Key[Array, ""]) -> Float[Array, "b h w c"]:
    latent_key, pixel_key = jax.random.split(key)
    height, width, channels = network.image_shape
    noise = jax.random.normal(latent_key, (_BLOCK, network.latents))
    outputs, _, _ = network.decoder.apply({"params": params["decoder"]}, None, noise)
    flat = outputs[:, :height, :width].reshape(-1, outputs.shape[-1])
    x = draw_pixel(mixture(flat, channels), pixel_key).reshape(_BLOCK, *network.image_shape)
    return jnp.clip((x + 1) / 2, 0, 1)


def appraise(
    metrics: dict[str, float], images: UInt8[np.ndarray, "n h w c"], held_out: UInt8[np.ndarray, "m h w c"]
) -> list[Check]:
    """Whether a training with these metrics learnt the images and put them in the latents."""
    return [
        at_least("validation ELBO above independent pixels", metrics["validation_elbo"],
                 independent_pixels_log_likelihood(images, held_out),
                 "the latents explain nothing; raise epochs or learning_rate"),
        at_least("posterior tells images apart", metrics["validation_kl"], 1.0,
                 "the posteriors have collapsed to their priors; raise epochs or latent"),
    ]
