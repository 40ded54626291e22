"""Two networks trained against each other: what all GANs share. Each brings its two modules and their settings.

Goodfellow et al. 2014; Yazici et al. 2019 (moving average of the generator); Zhai et al. 2019 (penalty).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32, Key, PyTree, UInt8

from nfk.models.adversarial_loss import Loss, movement
from nfk.training import Terms, averaged, descend, follow, unit_range

Variables = dict[str, Any]


class Adam(NamedTuple):
    """Adam's settings: hashable, so that equal ones are compiled once."""

    learning_rate: float
    b1: float
    b2: float

    @property
    def transformation(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate, b1=self.b1, b2=self.b2)


class State(NamedTuple):
    discriminator: Variables
    generator: Variables
    discriminator_moments: optax.OptState
    generator_moments: optax.OptState
    average: optax.EmaState


@dataclass(frozen=True)
class Adversaries:
    """The two networks, their optimisers and one step of each."""

    discriminator: nn.Module
    """(images in [0, 1], update_stats) -> (logits (b), hidden layers by name); spectral norms in `batch_stats`."""

    generator: nn.Module
    """(latents (b, latent), train) -> images in [0, 1]; `train` stores the batch's own statistics in `batch_stats`."""

    latent: int
    loss: Loss
    discriminator_adam: Adam
    generator_adam: Adam
    ema: float
    """Decay a step of the generator's moving average."""

    penalty: float = 0.0
    """Weight of `movement` in the generator's objective."""

    statistics_latents: int = 2048
    """Latents whose images give the averaged generator its batch statistics, all at once."""

    @partial(jax.jit, static_argnums=(0, 1))
    def initial(self, image_shape: tuple[int, int, int], key: Key[Array, ""]) -> Variables:
        d_key, g_key, statistics_key = jax.random.split(key, 3)
        # two images, not one: for one alone every convolution would be timed, which takes minutes of a wide network
        d = self.discriminator.init(d_key, jnp.zeros((2, *image_shape)), update_stats=True)
        g = self.generator.init(g_key, jnp.zeros((2, self.latent)), train=True)
        return _joined(settled(d), self._with_statistics(g, statistics_key))

    def start(self, variables: Variables) -> State:
        d, g = part(variables, "discriminator"), part(variables, "generator")
        return State(d, g, self.discriminator_adam.transformation.init(d["params"]),
                     self.generator_adam.transformation.init(g["params"]), optax.ema(self.ema).init(g["params"]))

    def finish(self, state: State, key: Key[Array, ""]) -> Variables:
        """The discriminator with exact spectral norms, the averaged generator with batch statistics of its own."""
        generator = {**state.generator, "params": averaged(state.average, self.ema)}
        return _joined(settled(state.discriminator), self._with_statistics(generator, key))

    @partial(jax.jit, static_argnums=0)
    def step(
        self, state: State, images: UInt8[Array, "b h w c"], labels: Int32[Array, " b"], key: Key[Array, ""]
    ) -> tuple[State, Terms]:
        del labels
        latents = jax.random.normal(key, (2, len(images), self.latent))
        discriminator, d_moments, d_terms = self._step_discriminator(state, unit_range(images), latents[0])
        generator, g_moments, g_terms = self._step_generator(state, discriminator, latents[1])
        average = follow(state.average, generator["params"], self.ema)
        return State(discriminator, generator, d_moments, g_moments, average), d_terms | g_terms

    def _step_discriminator(
        self, state: State, real: Float[Array, "b h w c"], latents: Float[Array, "b latent"]
    ) -> tuple[Variables, optax.OptState, Terms]:
        fake, _ = self.generator.apply(state.generator, latents, train=True, mutable=["batch_stats"])
        images = jnp.concatenate([real, fake])

        def loss(params: PyTree) -> tuple[Array, tuple[Variables, Terms]]:
            (logits, _), updated = self.discriminator.apply(
                {**state.discriminator, "params": params}, images, update_stats=True, mutable=["batch_stats"])
            on_real, on_fake = jnp.split(logits, 2)
            value = self.loss.discriminator(on_real, on_fake)
            accuracy = (jnp.mean(on_real > 0) + jnp.mean(on_fake < 0)) / 2
            return value, (updated, {"discriminator_loss": value, "discriminator_accuracy": accuracy})

        params = state.discriminator["params"]
        gradient, (updated, terms) = jax.grad(loss, has_aux=True)(params)
        params, moments = descend(
            self.discriminator_adam.transformation, gradient, params, state.discriminator_moments)
        return {"params": params, **updated}, moments, terms

    def _step_generator(
        self, state: State, discriminator: Variables, latents: Float[Array, "b latent"]
    ) -> tuple[Variables, optax.OptState, Terms]:
        target = self._target(state, latents) if self.penalty else None

        def loss(params: PyTree) -> tuple[Array, tuple[Variables, Terms]]:
            fake, updated = self.generator.apply(
                {**state.generator, "params": params}, latents, train=True, mutable=["batch_stats"])
            value = self.loss.generator(self.discriminator.apply(discriminator, fake)[0])
            terms = {"generator_loss": value}
            if target is not None:
                terms["generator_movement"] = moved = movement(fake, target)
                value = value + self.penalty * moved
            return value, (updated, terms)

        params = state.generator["params"]
        gradient, (updated, terms) = jax.grad(loss, has_aux=True)(params)
        params, moments = descend(self.generator_adam.transformation, gradient, params, state.generator_moments)
        return {"params": params, **updated}, moments, terms

    def _target(self, state: State, latents: Float[Array, "b latent"]) -> Float[Array, "b h w c"]:
        """The moving average's images; the present generator's at the first step, when there is no average."""
        none = state.average.count == 0
        params = jax.tree.map(lambda now, mean: jnp.where(none, now, mean),
                              state.generator["params"], averaged(state.average, self.ema))
        return self.generator.apply({**state.generator, "params": params}, latents, train=True,
                                    mutable=["batch_stats"])[0]

    @partial(jax.jit, static_argnums=0)
    def _with_statistics(self, generator: Variables, key: Key[Array, ""]) -> Variables:
        """`generator` with batch statistics of its own: those met in training belong to other parameters, and
        averages of them to none."""
        latents = jax.random.normal(key, (self.statistics_latents, self.latent))
        _, updated = self.generator.apply(generator, latents, train=True, mutable=["batch_stats"])
        return {"params": generator["params"], **updated}


def part(variables: Variables, name: str) -> Variables:
    """The variables of one of the two networks: "discriminator" or "generator"."""
    return {collection: parts[name] for collection, parts in variables.items()}


def _joined(discriminator: Variables, generator: Variables) -> Variables:
    return {collection: {"discriminator": discriminator[collection], "generator": generator[collection]}
            for collection in ("params", "batch_stats")}


@jax.jit
def settled(discriminator: Variables) -> Variables:
    """The discriminator with its kernels' exact leading singular vectors and values: training follows them by
    one power iteration a step, which nearly equal singular values hold back."""
    stats = {}
    for norm, stored in discriminator["batch_stats"].items():
        (name,) = (name.removesuffix("/u") for name in stored if name.endswith("/u"))
        layer, parameter = name.split("/")
        kernel = discriminator["params"][layer][parameter]
        _, values, right = jnp.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), full_matrices=False)
        stats[norm] = {f"{name}/u": right[:1], f"{name}/sigma": values[0]}
    return {"params": discriminator["params"], "batch_stats": stats}
