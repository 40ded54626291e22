"""Diffusion: a denoiser of images at every noise level, and a bound of their likelihood from it.

Karras, Aittala, Aila, Laine 2022 ("Elucidating the design space", EDM: preconditioning, training, sampler); Kingma,
Salimans, Poole, Ho 2021 (the bound as an integral over the signal-to-noise ratio).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, Key, PyTree, UInt8

from nfk.checkpoint import Checkpoint
from nfk.family_params import EdmParams
from nfk.models.fixed_noise import fixed_noise
from nfk.models.gan import mean_distance
from nfk.models.image_model import ImageModel
from nfk.models.likelihood import fit
from nfk.models.unet import Hidden, UNet
from nfk.training import Check, Progress, Trained, at_least, at_most, require_images, unit_range

Sigmas = TypeVar("Sigmas", Float[Array, " l"], Float[np.ndarray, " l"])
Denoiser = Callable[[Float[Array, "b h w c"], Float[Array, " b"]], Float[Array, "b h w c"]]
"""(noised images in [-1, 1] + noise, noise levels sigma) -> the images' posterior means"""

SIGMA_DATA = 0.5
"""The scale of images in [-1, 1] that the preconditioning counts on."""

_LOG_SIGMA_MEAN, _LOG_SIGMA_SCALE = -1.2, 1.2  # of training's noise levels
_SIGMA_MIN, _SIGMA_MAX, _RHO = 0.002, 80.0, 7.0  # of the sampler's
_ACTIVATION_SIGMA = 0.2  # strokes are seen as they are, single pixels are not
_CHUNK = 256


def edm_weight(sigma: Sigmas) -> Sigmas:
    """lambda(sigma) = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2: every level's loss begins at about 1 a pixel."""
    return (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2


def potential_grid(
    weighting: str, levels: int, low: float, high: float
) -> tuple[Float[np.ndarray, " l"], Float[np.ndarray, " l"]]:
    """sigma_i, the midpoints of `levels` equal parts of [log low, log high], and the weight w_i of each one's error.

    `likelihood`: -log p(x) <= 1/2 int E ||D(x + sigma n; sigma) - x||^2 d(1 / sigma^2) + const, by the midpoint rule in
    log sigma: w_i = log(high / low) / levels / sigma_i^2. `edm`: w_i = lambda(sigma_i) / levels, training's own.
    """
    width = math.log(high / low) / levels
    sigmas = np.exp(math.log(low) + width * (np.arange(levels) + 0.5))
    weights = width / sigmas**2 if weighting == "likelihood" else edm_weight(sigmas) / levels
    return sigmas, weights


def weighted_error(
    denoise: Denoiser, x: Float[Array, "h w c"], noise: Float[Array, "l h w c"], sigmas: Float[Array, " l"],
    weights: Float[Array, " l"],
) -> Float[Array, ""]:
    """sum_i w_i ||D(x + sigma_i n_i; sigma_i) - x||^2 of one image in [-1, 1]: l evaluations of D, as one batch."""
    denoised = denoise(x[None] + sigmas[:, None, None, None] * noise, sigmas)
    return weights @ ((denoised - x[None]) ** 2).sum(axis=(1, 2, 3))


def heun(denoise: Denoiser, noise: Float[Array, "b h w c"], steps: int) -> Float[Array, "b h w c"]:
    """EDM's deterministic sampler (its algorithm 1): dx / dsigma = (x - D(x; sigma)) / sigma from sigma = 80 to 0, by
    Heun's rule at sigma_i = (80^(1/7) + i / (steps - 1) (0.002^(1/7) - 80^(1/7)))^7; 2 steps - 1 evaluations of D."""
    ends = _SIGMA_MAX ** (1 / _RHO), _SIGMA_MIN ** (1 / _RHO)
    sigmas = jnp.asarray([*np.linspace(*ends, steps) ** _RHO, 0.0], noise.dtype)

    def slope(x: Array, sigma: Array) -> Array:
        return (x - denoise(x, jnp.full(len(x), sigma, x.dtype))) / sigma

    def step(x: Array, ends: Array) -> tuple[Array, None]:
        now, then = ends
        first = slope(x, now)
        second = slope(x + (then - now) * first, then)
        return x + (then - now) * (first + second) / 2, None

    x, _ = jax.lax.scan(step, noise * sigmas[0], jnp.stack([sigmas[:-2], sigmas[1:-1]], axis=1))
    return x - sigmas[-2] * slope(x, sigmas[-2])  # the last step, to 0, is Euler's


@dataclass(frozen=True)
class Edm(ImageModel):
    """A diffusion model as a `nfk.models.protocol.TrainedModel`: theta is the denoiser,
    s(x) = -sum_i w_i ||D(x + sigma_i n_i; sigma_i) - x||^2 on a fixed grid of levels and noises, the same for every
    image: in nats, up to a constant, with the `likelihood` weighting. A score costs `potential_levels` gradients."""

    config: EdmParams

    @classmethod
    def initial(cls, config: EdmParams, image_shape: tuple[int, int, int], classes: int, key: Key[Array, ""]) -> Edm:
        """The untrained network."""
        return cls(config, image_shape, classes, {"params": _Network(config, image_shape).initial(key)})

    def log_density(self, params: PyTree, x: Float[Array, "h w c"], key: Key[Array, ""]) -> Float[Array, ""]:
        """s(x; theta); the key is not used."""
        del key
        return self.log_density_given(params, x, jnp.asarray(fixed_noise((1, *self.noise_shape))))

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """An image for each level (`nfk.models.protocol.NoisyPotential`)."""
        return (self.config.potential_levels, *self.image_shape)

    def log_density_given(
        self, params: PyTree, x: Float[Array, "h w c"], noise: Float[Array, "draws l h w c"] | None
    ) -> Float[Array, ""]:
        """s(x; theta) as the mean over these noises; None: of images without noise, the network told of each level."""
        config, dtype = self.config, jax.tree.leaves(params)[0].dtype
        sigmas, weights = (jnp.asarray(found, dtype) for found in potential_grid(
            config.weighting, config.potential_levels, config.potential_low, config.potential_high))
        denoise, x = partial(self._network.denoise, params), 2 * x.astype(dtype) - 1
        noise = jnp.zeros((1, *self.noise_shape), dtype) if noise is None else noise.astype(dtype)
        if len(noise) == 1:
            return -weighted_error(denoise, x, noise[0], sigmas, weights)
        return -jax.vmap(lambda each: weighted_error(denoise, x, each, sigmas, weights))(noise).mean()

    def activations(self, x: Float[Array, "b h w c"]) -> Hidden:
        """Every residual block's output for the image itself, told that its noise is 0.2."""
        sigmas = jnp.full(len(x), _ACTIVATION_SIGMA, x.dtype)
        return self._network.preconditioned(self.params, 2 * x - 1, sigmas)[1]

    def sample(self, key: Key[Array, ""], count: int) -> Float[np.ndarray, "n h w c"]:
        """Images by `heun`, clipped to [0, 1]."""
        keys = jax.random.split(key, -(-count // _CHUNK))
        return np.concatenate([np.asarray(_draw(self._network, self.params, each)) for each in keys])[:count]

    @property
    def _network(self) -> _Network:
        return _Network(self.config, self.image_shape)

    def train(
        self,
        images: UInt8[np.ndarray, "n h w c"],
        labels: Int32[np.ndarray, " n"],
        validation: tuple[UInt8[np.ndarray, "m h w c"], Int32[np.ndarray, " m"]],
        key: Key[Array, ""],
        progress: Progress | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> Trained[Edm]:
        """Adam on the denoising error at one level and noise an image, log sigma ~ N(-1.2, 1.2^2), weighted by lambda.

        Equal keys give equal networks. Raises TrainingError where the loss is not finite.
        """
        require_images(images, labels, self.image_shape, self.classes, self.config.batch)
        config, (fit_key, look_key) = self.config, jax.random.split(key)
        params, history = fit(
            self._network, self.params, images, labels, validation[0], batch=config.batch, epochs=config.epochs,
            learning_rate=config.learning_rate, key=fit_key, ema=config.ema, clip=1.0, cosine=True, progress=progress,
            checkpoint=checkpoint)
        trained = replace(self, variables={"params": params})
        metrics = {name: values[-1] for name, values in history.items()}
        samples = trained.sample(look_key, min(256, len(images)))
        metrics["diversity"] = mean_distance(samples) / mean_distance(images[: len(samples)] / np.float32(255))
        return Trained(trained, history, metrics, appraise(metrics, images))


@dataclass(frozen=True)
class _Network:
    """The denoiser as a function of theta: a `nfk.models.likelihood.Objective`."""

    config: EdmParams
    image_shape: tuple[int, int, int]

    @property
    def unet(self) -> UNet:
        return UNet(self.config.width, self.config.attention)

    @partial(jax.jit, static_argnums=0)
    def initial(self, key: Key[Array, ""]) -> PyTree:
        return self.unet.init(key, jnp.zeros((2, *self.image_shape)), jnp.zeros(2))["params"]

    def preconditioned(
        self, params: PyTree, noised: Float[Array, "b h w c"], sigmas: Float[Array, " b"]
    ) -> tuple[Float[Array, "b h w c"], Hidden]:
        """D(x; sigma) = c_skip x + c_out F(c_in x; log(sigma) / 4), and F's blocks: input and target of F have
        variance 1 at every level."""
        square = (sigmas**2 + SIGMA_DATA**2)[:, None, None, None]
        each = sigmas[:, None, None, None]
        out, hidden = self.unet.apply({"params": params}, noised / jnp.sqrt(square), jnp.log(sigmas) / 4)
        return SIGMA_DATA**2 / square * noised + each * SIGMA_DATA / jnp.sqrt(square) * out, hidden

    def denoise(
        self, params: PyTree, noised: Float[Array, "b h w c"], sigmas: Float[Array, " b"]
    ) -> Float[Array, "b h w c"]:
        return self.preconditioned(params, noised, sigmas)[0]

    def terms(
        self, params: PyTree, images: UInt8[Array, "b h w c"], key: Key[Array, ""]
    ) -> dict[str, Float[Array, " b"]]:
        """Minus the weighted error a pixel, at one level and noise an image."""
        level_key, noise_key = jax.random.split(key)
        x = 2 * unit_range(images) - 1
        sigmas = jnp.exp(_LOG_SIGMA_MEAN + _LOG_SIGMA_SCALE * jax.random.normal(level_key, (len(x),)))
        noised = x + sigmas[:, None, None, None] * jax.random.normal(noise_key, x.shape)
        errors = ((self.denoise(params, noised, sigmas) - x) ** 2).mean(axis=(1, 2, 3))
        return {"negative_denoising_error": -edm_weight(sigmas) * errors}


@partial(jax.jit, static_argnums=0)
def _draw(network: _Network, params: PyTree, key: Key[Array, ""]) -> Float[Array, "b h w c"]:
    noise = jax.random.normal(key, (_CHUNK, *network.image_shape))
    x = heun(partial(network.denoise, params), noise, network.config.sampler_steps)
    return jnp.clip((x + 1) / 2, 0, 1)


def independent_pixel_loss(images: UInt8[np.ndarray, "n h w c"]) -> float:
    """Training's loss of the best denoiser that sees one pixel at a time and only its mean m and variance v:
    D = m + v / (v + sigma^2) (x - m), whose error is v sigma^2 / (v + sigma^2); over sigma by Gauss and Hermite."""
    variance = (images / np.float32(127.5)).var(axis=0).astype(np.float64)
    points, masses = np.polynomial.hermite_e.hermegauss(40)
    sigmas = np.exp(_LOG_SIGMA_MEAN + _LOG_SIGMA_SCALE * points)
    errors = [float(np.mean(variance * sigma**2 / (variance + sigma**2))) for sigma in sigmas]
    return float(masses / masses.sum() @ (edm_weight(sigmas) * errors))


def appraise(metrics: dict[str, float], images: UInt8[np.ndarray, "n h w c"]) -> list[Check]:
    """Whether a training with these metrics learnt more than each pixel's spread."""
    return [
        at_most("validation loss below independent pixels", -metrics["validation_negative_denoising_error"],
                independent_pixel_loss(images), "the denoiser has learnt nothing of shapes; raise epochs or width"),
        at_least("samples as diverse as images", metrics["diversity"], 0.5,
                 "the samples are alike; raise epochs or sampler_steps"),
    ]
