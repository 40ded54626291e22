"""MixMatch (Berthelot, Carlini, Goodfellow, Papernot, Oliver, Raffel 2019): guessed labels, sharpened and mixed."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from nfk.studies.few_label_methods.method import Batch, Kept, Loss, Method, Moment, Network, Variables, cross_entropy
from nfk.studies.few_label_methods.mixup import mixed


def sharpened(probabilities: Float[Array, "u classes"], temperature: float) -> Float[Array, "u classes"]:
    """p_y^(1/T) / sum_z p_z^(1/T)."""
    powers = probabilities ** (1 / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def guessed(logits: Float[Array, "k u classes"], temperature: float) -> Float[Array, "u classes"]:
    """The sharpened mean of the predictions for k augmentations of each image; a constant to the gradient."""
    return lax.stop_gradient(sharpened(jax.nn.softmax(logits).mean(axis=0), temperature))


def brier(targets: Float[Array, "b classes"], logits: Float[Array, "b classes"]) -> Float[Array, ""]:
    """The mean square of the difference of probabilities, over images and classes: L_U."""
    return jnp.square(targets - jax.nn.softmax(logits)).mean()


def nearer(share: Float[Array, " b"]) -> Float[Array, " b"]:
    """max(lambda, 1 - lambda): what is mixed stays nearer to its first part."""
    return jnp.maximum(share, 1 - share)


@dataclass(frozen=True)
class MixMatch(Method):
    """L_X + lambda_u L_U, lambda_u rising in proportion over the first `ramp` of the steps.

    Labelled images, and K augmentations of the unlabelled with one guess for all, are each mixed with a random one of
    them all, share max(l, 1 - l), l ~ Beta(alpha, alpha) for each; L_X is the cross-entropy of the first, L_U the
    squared error of the second. Classifies by the last weights: the learning rate has fallen to zero, so that the
    moving average which Berthelot et al. read differs little.
    """

    name, title = "mixmatch", "MixMatch"
    weights: tuple[float, ...]
    temperature: float
    alpha: float
    augmentations: int
    ramp: float

    @property
    def grid(self) -> tuple[dict[str, float], ...]:
        return tuple({"weight": weight} for weight in self.weights)

    def loss(self, network: Network, variables: Variables, kept: Kept, batch: Batch, moment: Moment) -> Loss:
        del kept
        views = batch.unlabelled[: self.augmentations]
        flat = views.reshape(-1, *views.shape[2:])
        guesses = guessed(network(variables, flat).logits.reshape(*views.shape[:2], -1), self.temperature)
        images = jnp.concatenate([batch.labelled, flat])
        targets = jnp.concatenate([batch.targets, jnp.tile(guesses, (self.augmentations, 1))])
        share_key, order_key = jax.random.split(moment.key)
        share = nearer(jax.random.beta(share_key, self.alpha, self.alpha, (len(images),)))
        order = jax.random.permutation(order_key, len(images))
        passed = network(variables, mixed(images, images[order], share))
        targets = mixed(targets, targets[order], share)
        count = len(batch.labelled)
        weight = moment.settings["weight"] * jnp.minimum(moment.progress / self.ramp, 1)
        return Loss(cross_entropy(targets[:count], passed.logits[:count])
                    + weight * brier(targets[count:], passed.logits[count:]), passed.statistics)
