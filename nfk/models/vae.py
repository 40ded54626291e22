"""Variational autoencoders: their bound of log p(x), of one or several noises, as a potential."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, Key, PyTree, UInt8

from nfk.checkpoint import Checkpoint
from nfk.family_params import VaeParams
from nfk.models.fixed_noise import fixed_noise
from nfk.models.image_model import ImageModel
from nfk.models.likelihood import Objective, fit
from nfk.training import Check, Progress, Trained, require_images

Hidden = dict[str, Float[Array, "b ..."]]


class Bound(NamedTuple):
    """The terms of a bound of log p(x) at z = mean + scale noise, each in nats an image."""

    log_likelihood: Float[Array, " b"]
    """log p(x | z)"""

    kl: Float[Array, " b"]
    """KL(q(z | x) || p(z)) in closed form; of several layers the sum, each given the z of those above"""

    log_ratio: Float[Array, " b"]
    """log p(z) - log q(z | x), of mean -kl over the noises"""

    @property
    def elbo(self) -> Float[Array, " b"]:
        return self.log_likelihood - self.kl

    @property
    def log_weight(self) -> Float[Array, " b"]:
        """log w, w = p(x | z) p(z) / q(z | x), of mean p(x) over the noises."""
        return self.log_likelihood + self.log_ratio


@runtime_checkable
class Network(Objective, Protocol):
    """Encoder and decoder as functions of theta; hashable, so that equal networks are compiled once."""

    @property
    def latents(self) -> int:
        """z's numbers an image."""
        ...

    def initial(self, key: Key[Array, ""]) -> PyTree:
        """theta of the untrained network."""
        ...

    def bound(
        self, params: PyTree, x: Float[Array, "b h w c"], noise: Float[Array, "b z"] | None
    ) -> tuple[Bound, Hidden]:
        """The bound of images in [0, 1], each with a noise of its own, or at z = mean; the hidden layers' outputs by
        name."""
        ...


@dataclass(frozen=True)
class Vae(ImageModel):
    """A VAE as a `nfk.models.protocol.TrainedModel`: theta is encoder and decoder,

    noises = 0:   s(x) = log p(x | z = mean(x)) - KL(q(z | x) || p(z)), the ELBO at the posterior mean, no noise;
    noises = K:   s(x) = mean of log w_i over K noises, the same ones for all images, w = p(x | z) p(z) / q(z | x);
    importance:   s(x) = log of the mean of w_i (Burda, Grosse, Salakhutdinov 2016).
    """

    config: VaeParams

    @classmethod
    def initial(cls, config: VaeParams, image_shape: tuple[int, int, int], classes: int, key: Key[Array, ""]) -> Vae:
        """The untrained network."""
        untrained = cls(config, image_shape, classes, {})
        return replace(untrained, variables={"params": untrained.network.initial(key)})

    @property
    @abstractmethod
    def network(self) -> Network:
        """Encoder and decoder."""

    @abstractmethod
    def sample(self, key: Key[Array, ""], count: int) -> Float[np.ndarray, "n h w c"]:
        """Images of z ~ N(0, I), in [0, 1]."""

    def log_density(self, params: PyTree, x: Float[Array, "h w c"], key: Key[Array, ""]) -> Float[Array, ""]:
        """s(x; theta) in nats; the key is not used. Costs one pass of the encoder and max(1, noises) of the decoder."""
        del key
        config = self.config
        if not config.noises:
            return self.log_density_given(params, x, None)
        noise = jnp.asarray(fixed_noise((config.noises, *self.noise_shape)))
        if not config.importance:
            return self.log_density_given(params, x, noise)
        return nn.logsumexp(self._log_weights(params, x, noise)) - math.log(config.noises)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """The latents' (`nfk.models.protocol.NoisyPotential`)."""
        return (self.network.latents,)

    def log_density_given(
        self, params: PyTree, x: Float[Array, "h w c"], noise: Float[Array, "draws z"] | None
    ) -> Float[Array, ""]:
        """The mean of log w over these noises; None: the ELBO at the posterior mean."""
        if noise is None:
            return self.network.bound(params, x[None].astype(jax.tree.leaves(params)[0].dtype), None)[0].elbo[0]
        return self._log_weights(params, x, noise).mean()

    def _log_weights(
        self, params: PyTree, x: Float[Array, "h w c"], noise: Float[Array, "draws z"]
    ) -> Float[Array, " draws"]:
        dtype = jax.tree.leaves(params)[0].dtype
        x = x[None].astype(dtype)
        # the encoder, which sees no noise, is not repeated
        return jax.vmap(lambda each: self.network.bound(params, x, each[None])[0].log_weight[0])(noise.astype(dtype))

    def activations(self, x: Float[Array, "b h w c"]) -> Hidden:
        """Every hidden layer's output, encoder to decoder; the decoder's at the posterior mean."""
        return self.network.bound(self.params, x, None)[1]

    @property
    def descent(self) -> dict[str, Any]:
        """What `nfk.models.likelihood.fit` is told beyond batch, epochs and rate."""
        return {}

    @abstractmethod
    def appraise(
        self, metrics: dict[str, float], images: UInt8[np.ndarray, "n h w c"], held_out: UInt8[np.ndarray, "m h w c"]
    ) -> list[Check]:
        """Whether a training with these metrics learnt the images."""

    def train(
        self,
        images: UInt8[np.ndarray, "n h w c"],
        labels: Int32[np.ndarray, " n"],
        validation: tuple[UInt8[np.ndarray, "m h w c"], Int32[np.ndarray, " m"]],
        key: Key[Array, ""],
        progress: Progress | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> Trained[Vae]:
        """Adam on the negative ELBO with one noise an image, by `descent`; labels are not used.

        Equal keys give equal networks. Raises TrainingError where the loss is not finite.
        """
        require_images(images, labels, self.image_shape, self.classes, self.config.batch)
        config = self.config
        params, history = fit(
            self.network, self.params, images, labels, validation[0], batch=config.batch, epochs=config.epochs,
            learning_rate=config.learning_rate, key=key, progress=progress, checkpoint=checkpoint, **self.descent)
        metrics = {name: values[-1] for name, values in history.items()}
        return Trained(replace(self, variables={"params": params}), history, metrics,
                       self.appraise(metrics, images, validation[0]))
