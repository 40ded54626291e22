"""Image models whose log p(x) is exact, in units in which they compare: nats of an 8-bit image.

A probability of 8-bit images and a density are told alike if the density is taken per intensity level: with u uniform
in [0, 1]^d, E log p(levels + u) <= log of the integral of p over the image's cell, which is a probability (Theis, van
den Oord, Bethge 2016).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, Key, PyTree, UInt8

from nfk.checkpoint import Checkpoint
from nfk.family_params import LikelihoodParams
from nfk.models.gan import mean_distance
from nfk.models.image_model import ImageModel
from nfk.models.likelihood import Objective, fit
from nfk.training import Check, Progress, Trained, at_least, require_images, unit_range

Hidden = dict[str, Float[Array, "b ..."]]

_BLOCK = 256
_CLIP = 1000.0
"""Bound of the gradient's norm, in nats an image; on digits it is 300 to 1,500, but 2,000 to 4,000 at the start."""


@runtime_checkable
class Network(Objective, Protocol):
    """A distribution of images as functions of theta; hashable, so that equal networks are compiled once."""

    def initial(self, key: Key[Array, ""]) -> PyTree:
        """theta of the untrained network."""
        ...

    def started(self, params: PyTree, images: UInt8[Array, "b h w c"], key: Key[Array, ""]) -> PyTree:
        """theta to train from, given some of the images."""
        ...

    def log_likelihood(self, params: PyTree, x: Float[Array, "b h w c"]) -> tuple[Float[Array, " b"], Hidden]:
        """log p of images in [0, 1], in nats, in the dtype of `params`; the hidden layers' outputs by name."""
        ...

    def draw(self, params: PyTree, key: Key[Array, ""], count: int) -> Float[Array, "count h w c"]:
        """Images of the distribution, in [0, 1]; jitted."""
        ...


@dataclass(frozen=True)
class ExactLikelihood(ImageModel):
    """A distribution of images as a `nfk.models.protocol.TrainedModel`: theta is all its parameters,
    s(x) = log p(x) in nats, without noise."""

    config: LikelihoodParams

    @classmethod
    def initial(
        cls, config: LikelihoodParams, image_shape: tuple[int, int, int], classes: int, key: Key[Array, ""]
    ) -> ExactLikelihood:
        """The untrained network."""
        untrained = cls(config, image_shape, classes, {})
        return replace(untrained, variables={"params": untrained.network.initial(key)})

    @property
    @abstractmethod
    def network(self) -> Network:
        """The distribution."""

    def log_density(self, params: PyTree, x: Float[Array, "h w c"], key: Key[Array, ""]) -> Float[Array, ""]:
        """s(x; theta) = log p(x) in nats; the key is not used."""
        del key
        x = x[None].astype(jax.tree.leaves(params)[0].dtype)
        return self.network.log_likelihood(params, x)[0][0]

    def activations(self, x: Float[Array, "b h w c"]) -> Hidden:
        """Every hidden layer's output, from the image on."""
        return self.network.log_likelihood(self.params, x)[1]

    def sample(self, key: Key[Array, ""], count: int) -> Float[np.ndarray, "n h w c"]:
        """Images of the distribution, drawn by blocks of 256 with a key each."""
        keys = jax.random.split(key, -(-count // _BLOCK))
        blocks = [np.asarray(self.network.draw(self.params, block_key, _BLOCK)) for block_key in keys]
        return np.concatenate(blocks)[:count]

    def train(
        self,
        images: UInt8[np.ndarray, "n h w c"],
        labels: Int32[np.ndarray, " n"],
        validation: tuple[UInt8[np.ndarray, "m h w c"], Int32[np.ndarray, " m"]],
        key: Key[Array, ""],
        progress: Progress | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> Trained[ExactLikelihood]:
        """Adam on minus the log likelihood, clipped, its rate falling by a cosine to zero; what is returned is the
        moving average of the parameters. Labels are not used.

        Equal keys give equal networks. Raises TrainingError where the likelihood is not finite.
        """
        config = self.config
        require_images(images, labels, self.image_shape, self.classes, config.batch)
        start_key, fit_key, check_key = jax.random.split(key, 3)
        some = jnp.asarray(images[:: -(-len(images) // _BLOCK)])
        start = self.network.started(self.params, some, start_key)
        params, history = fit(
            self.network, start, images, labels, validation[0], batch=config.batch, epochs=config.epochs,
            learning_rate=config.learning_rate, key=fit_key, ema=config.ema, clip=_CLIP, cosine=True,
            progress=progress, checkpoint=checkpoint)
        trained = replace(self, variables={"params": params})
        count = min(_BLOCK, len(images))
        real = np.asarray(unit_range(jnp.asarray(images[:count])))
        metrics = {name: values[-1] for name, values in history.items()}
        metrics["diversity"] = mean_distance(trained.sample(check_key, count)) / mean_distance(real)
        return Trained(trained, history, metrics, appraise(metrics, images, validation[0]))


def told(log_likelihood: Float[Array, " b"], image_shape: tuple[int, int, int]) -> dict[str, Float[Array, " b"]]:
    """The terms of an `Objective`: log likelihoods in nats, and the same in bits per dimension."""
    return {"log_likelihood": log_likelihood, "bits_per_dimension": bits_per_dimension(log_likelihood, image_shape)}


Nats = TypeVar("Nats", Float[Array, " b"], float)


def bits_per_dimension(
    log_likelihood: Nats, image_shape: tuple[int, int, int]
) -> Nats:
    """-log2 p / d of log p in nats, d = h w c: 8 for uniform noise."""
    return log_likelihood * (-1 / (math.prod(image_shape) * math.log(2)))


def independent_pixels_log_likelihood(
    images: UInt8[np.ndarray, "n h w c"], held_out: UInt8[np.ndarray, "m h w c"]
) -> float:
    """The mean log probability, in nats, of held-out images where every pixel is independent with the training
    images' histogram q of that pixel: p(level) = (n q(level) + 1/2) / (n + 128) (Krichevsky, Trofimov 1981).

    As a density, constant on each level's cell, it is the same number whatever the dequantisation.
    """
    flat, asked = images.reshape(len(images), -1), held_out.reshape(len(held_out), -1)
    pixels = np.arange(flat.shape[1])
    counts = np.zeros((flat.shape[1], 256))
    np.add.at(counts, (np.broadcast_to(pixels, flat.shape), flat), 1.0)
    log_p = np.log((counts + 0.5) / (len(images) + 128))
    return float(log_p[pixels[None, :], asked].sum(axis=1).mean())


def appraise(
    metrics: dict[str, float], images: UInt8[np.ndarray, "n h w c"], held_out: UInt8[np.ndarray, "m h w c"]
) -> list[Check]:
    """Whether a training with these metrics learnt how pixels hang together, and spread over the images."""
    return [
        at_least("validation log likelihood above independent pixels", metrics["validation_log_likelihood"],
                 independent_pixels_log_likelihood(images, held_out),
                 "pixels are told no better than one by one; raise epochs or learning_rate"),
        at_least("samples as diverse as images", metrics["diversity"], 0.5,
                 "the samples are all alike; raise epochs or train with another seed"),
    ]
