"""Improved GAN (Salimans, Goodfellow, Zaremba, Cheung, Radford, Chen 2016): generated images as one class more."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Key, PyTree

from nfk.studies.few_label_methods.method import Batch, Kept, Loss, Method, Moment, Network, Variables, cross_entropy
from nfk.training import descend


class Generating(NamedTuple):
    variables: Variables
    moments: optax.OptState


def real_or_generated(real: Float[Array, "b classes"], generated: Float[Array, "m classes"]) -> Float[Array, ""]:
    """-E[log D(x)] - E[log(1 - D(G(z)))], D(x) = Z / (Z + 1), Z = sum_y exp f_y(x): the loss without labels.

    The (K + 1)-th class, "generated", has the logit 0, which costs nothing: adding one number to all logits changes no
    softmax. With l = log Z: -log D = softplus(-l), -log(1 - D) = softplus(l).
    """
    on_real, on_generated = jax.nn.logsumexp(real, axis=1), jax.nn.logsumexp(generated, axis=1)
    return jax.nn.softplus(-on_real).mean() + jax.nn.softplus(on_generated).mean()


def feature_matching(real: Float[Array, "b d"], generated: Float[Array, "m d"]) -> Float[Array, ""]:
    """|E f(x) - E f(G(z))|^2: what the generator minimises, f a hidden layer of the classifier."""
    return jnp.square(real.mean(axis=0) - generated.mean(axis=0)).sum()


@dataclass(frozen=True)
class ImprovedGan(Method):
    """Cross-entropy on labelled images plus weight * `real_or_generated`; against it a generator that matches the
    classifier's last hidden layer, one Adam step (b1 0.5) after each of the classifier's."""

    name, title = "improved_gan", "Improved GAN"
    weights: tuple[float, ...]
    generator: nn.Module
    """(latents, train) -> images in [0, 1]"""
    latent: int
    learning_rate: float

    @property
    def grid(self) -> tuple[dict[str, float], ...]:
        return tuple({"weight": weight} for weight in self.weights)

    @property
    def _optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate, b1=0.5)

    def begin(self, network: Network, variables: Variables, images: Float[Array, "b h w c"], key: Key[Array, ""]
              ) -> Generating:
        del network, variables, images
        generator = _first_weights(self.generator, self.latent, key)
        return Generating(generator, self._optimiser.init(generator["params"]))

    def loss(self, network: Network, variables: Variables, kept: Kept, batch: Batch, moment: Moment) -> Loss:
        generated, _ = self._generated(kept.variables, moment.key, batch)
        passed = network(variables, jnp.concatenate([batch.labelled, batch.unlabelled[0]]))
        on_labelled, on_unlabelled = jnp.split(passed.logits, [len(batch.labelled)])
        on_generated = network(variables, lax.stop_gradient(generated)).logits
        return Loss(cross_entropy(batch.targets, on_labelled) + moment.settings["weight"] * real_or_generated(
            on_unlabelled, on_generated), passed.statistics)

    def after(self, network: Network, variables: Variables, kept: Kept, batch: Batch, moment: Moment) -> Generating:
        real = network(variables, batch.unlabelled[0]).hidden["penultimate"]

        def loss(params: PyTree) -> tuple[Array, Variables]:
            images, statistics = self._generated(
                {**kept.variables, "params": params}, jax.random.fold_in(moment.key, 1), batch)
            return feature_matching(real, network(variables, images).hidden["penultimate"]), statistics

        params = kept.variables["params"]
        gradient, statistics = jax.grad(loss, has_aux=True)(params)
        params, moments = descend(self._optimiser, gradient, params, kept.moments)
        return Generating({"params": params, **statistics}, moments)

    def _generated(self, generator: Variables, key: Key[Array, ""], batch: Batch
                   ) -> tuple[Float[Array, "u h w c"], Variables]:
        latents = jax.random.normal(key, (batch.unlabelled.shape[1], self.latent))
        return self.generator.apply(generator, latents, train=True, mutable=["batch_stats"])


@partial(jax.jit, static_argnums=(0, 1))
def _first_weights(generator: nn.Module, latent: int, key: Key[Array, ""]) -> Variables:
    return generator.init(key, jnp.zeros((2, latent)), train=True)
