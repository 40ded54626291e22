"""Convolutional variational autoencoder (Kingma, Welling 2014), trained by the reparameterised ELBO."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key, PyTree, UInt8

from nfk.family_params import ConvVaeParams
from nfk.models.convolution import Conv, DoublingConvolution
from nfk.models.vae import Bound, Hidden, Vae
from nfk.training import Check, at_least, unit_range

_CHUNK = 256


class Encoder(nn.Module):
    """q(z | x) = N(mean, diag(exp(log variance))): stride-2 4x4 convolutions of width and 2 width channels,
    one hidden dense layer; ReLU."""

    width: int
    hidden: int
    latent: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> tuple[Float[Array, "b z"], Float[Array, "b z"], Hidden]:
        """Means, log variances, and the hidden layers' outputs by name."""
        hidden: Hidden = {}
        for layer in range(2):
            x = nn.relu(Conv(self.width * 2**layer, (4, 4), (2, 2), name=f"conv_{layer}")(x))
            hidden[f"encoder_conv_{layer}"] = x
        x = hidden["encoder_dense"] = nn.relu(nn.Dense(self.hidden, name="dense")(x.reshape(len(x), -1)))
        mean = hidden["latent_mean"] = nn.Dense(self.latent, name="mean")(x)
        return mean, nn.Dense(self.latent, name="log_variance")(x), hidden


class Decoder(nn.Module):
    """The encoder's mirror: p(x | z), Bernoulli for grey images, else N(mean, scale^2) with one learnt scale.

    Images whose sides are no multiple of 4 are cropped from larger ones.
    """

    width: int
    hidden: int
    image_shape: tuple[int, int, int]

    @nn.compact
    def __call__(
        self, z: Float[Array, "b z"]
    ) -> tuple[Float[Array, "b h w c"], Float[Array, ""] | None, Hidden]:
        """Logits of the pixels' means, log scale (None for grey images), and hidden layers by name."""
        height, width, channels = self.image_shape
        rows, columns = -(-height // 4), -(-width // 4)
        hidden: Hidden = {}
        x = hidden["decoder_dense_0"] = nn.relu(nn.Dense(self.hidden, name="dense_0")(z))
        x = nn.relu(nn.Dense(rows * columns * 2 * self.width, name="dense_1")(x))
        x = hidden["decoder_dense_1"] = x.reshape(len(z), rows, columns, 2 * self.width)
        x = hidden["decoder_double_0"] = nn.relu(DoublingConvolution(self.width, name="double_0")(x))
        logits = DoublingConvolution(channels, name="double_1")(x)[:, :height, :width]
        log_scale = None if channels == 1 else self.param("log_scale", nn.initializers.constant(-1.0), ())
        return logits, log_scale, hidden


def kl_divergence(mean: Float[Array, "b z"], log_variance: Float[Array, "b z"]) -> Float[Array, " b"]:
    """KL(N(mean, diag(exp(log_variance))) || N(0, I)), in nats."""
    return 0.5 * (mean**2 + jnp.exp(log_variance) - log_variance - 1).sum(axis=1)


def log_ratio(
    mean: Float[Array, "b z"], log_variance: Float[Array, "b z"], noise: Float[Array, "b z"]
) -> Float[Array, " b"]:
    """log N(z; 0, I) - log N(z; mean, diag(exp(log_variance))) at z = mean + exp(log_variance / 2) noise, in nats."""
    z = mean + jnp.exp(log_variance / 2) * noise
    return 0.5 * (noise**2 + log_variance - z**2).sum(axis=1)


def log_likelihood(
    x: Float[Array, "b h w c"], logits: Float[Array, "b h w c"], log_scale: Float[Array, ""] | None
) -> Float[Array, " b"]:
    """log p(x | z) in nats, m = sigmoid(logits): sum of x log m + (1 - x) log(1 - m) where log_scale is None
    (for intensities between 0 and 1 the Bernoulli's log probability, not a normalised density), else of
    log N(x; m, exp(log_scale)^2)."""
    if log_scale is None:
        terms = -optax.sigmoid_binary_cross_entropy(logits, x)
    else:
        standard = (x - nn.sigmoid(logits)) * jnp.exp(-log_scale)[None, None, None, None]
        terms = -0.5 * standard**2 - (log_scale + 0.5 * math.log(2 * math.pi))[None, None, None, None]
    return terms.sum(axis=(1, 2, 3))


@dataclass(frozen=True)
class ConvVae(Vae):
    """A convolutional VAE with the prior N(0, I)."""

    config: ConvVaeParams

    def sample(self, key: Key[Array, ""], count: int) -> Float[np.ndarray, "n h w c"]:
        """The decoder's mean of z ~ N(0, I)."""
        latents = jax.random.normal(key, (-(-count // _CHUNK), _CHUNK, self.config.latent))
        chunks = [np.asarray(_decode_means(self.network, self.params, z)) for z in latents]
        return np.concatenate(chunks)[:count]

    @property
    def network(self) -> _Network:
        return _Network(self.config, self.image_shape)

    def appraise(
        self, metrics: dict[str, float], images: UInt8[np.ndarray, "n h w c"], held_out: UInt8[np.ndarray, "m h w c"]
    ) -> list[Check]:
        return appraise(metrics, images, held_out)


@dataclass(frozen=True)
class _Network:
    """The two modules as one function of theta: a `nfk.models.vae.Network`."""

    config: ConvVaeParams
    image_shape: tuple[int, int, int]

    @property
    def latents(self) -> int:
        return self.config.latent

    @property
    def encoder(self) -> Encoder:
        return Encoder(self.config.width, self.config.hidden, self.config.latent)

    @property
    def decoder(self) -> Decoder:
        return Decoder(self.config.width, self.config.hidden, self.image_shape)

    @partial(jax.jit, static_argnums=0)
    def initial(self, key: Key[Array, ""]) -> PyTree:
        encoder_key, decoder_key = jax.random.split(key)
        return {"encoder": self.encoder.init(encoder_key, jnp.zeros((1, *self.image_shape)))["params"],
                "decoder": self.decoder.init(decoder_key, jnp.zeros((1, self.config.latent)))["params"]}

    def bound(
        self, params: PyTree, x: Float[Array, "b h w c"], noise: Float[Array, "b z"] | None
    ) -> tuple[Bound, Hidden]:
        mean, log_variance, encoded = self.encoder.apply({"params": params["encoder"]}, x)
        z = mean if noise is None else mean + jnp.exp(log_variance / 2) * noise
        logits, log_scale, decoded = self.decoder.apply({"params": params["decoder"]}, z)
        ratio = log_ratio(mean, log_variance, jnp.zeros_like(z) if noise is None else noise)
        bound = Bound(log_likelihood(x, logits, log_scale), kl_divergence(mean, log_variance), ratio)
        return bound, encoded | decoded

    def terms(
        self, params: PyTree, images: UInt8[Array, "b h w c"], key: Key[Array, ""]
    ) -> dict[str, Float[Array, " b"]]:
        """The ELBO with one noise an image, its KL term in closed form, and that term."""
        noise = jax.random.normal(key, (len(images), self.latents))
        bound, _ = self.bound(params, unit_range(images), noise)
        return {"elbo": bound.elbo, "kl": bound.kl}


@partial(jax.jit, static_argnums=0)
def _decode_means(network: _Network, params: PyTree, z: Float[Array, "b z"]) -> Float[Array, "b h w c"]:
    return nn.sigmoid(network.decoder.apply({"params": params["decoder"]}, z)[0])


def pixel_mean_log_likelihood(
    images: UInt8[np.ndarray, "n h w c"], held_out: UInt8[np.ndarray, "m h w c"]
) -> float:
    """The mean log likelihood, in nats, of held-out images where every pixel is independent with the mean of
    the training images (and, off grey, one scale for all): what a VAE that ignores its latents can reach."""
    means = np.clip(images.mean(axis=0, dtype=np.float64) / 255, 1 / 512, 511 / 512)
    x = held_out / 255
    if images.shape[-1] == 1:
        terms = x * np.log(means) + (1 - x) * np.log1p(-means)
    else:
        variance = max(np.mean((images / np.float32(255) - means) ** 2), 1e-6)
        terms = -0.5 * (x - means) ** 2 / variance - 0.5 * np.log(2 * np.pi * variance)
    return float(terms.sum(axis=(1, 2, 3)).mean())


def appraise(
    metrics: dict[str, float], images: UInt8[np.ndarray, "n h w c"], held_out: UInt8[np.ndarray, "m h w c"]
) -> list[Check]:
    """Whether a training with these metrics learnt the images and put them in the latents."""
    return [
        at_least("validation ELBO above independent pixels", metrics["validation_elbo"],
                 pixel_mean_log_likelihood(images, held_out),
                 "the latents explain nothing; raise epochs or learning_rate"),
        at_least("posterior tells images apart", metrics["validation_kl"], 1.0,
                 "the posterior has collapsed to the prior; raise epochs, latent or hidden"),
    ]
