"""BiGAN (Donahue, Krähenbühl, Darrell 2017): an encoder learnt against a discriminator of image and latent jointly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32, Key, UInt8

from nfk.studies.pretext_tasks.body import Headed, Variables, started
from nfk.training import Terms, descend, unit_range


def value(encoded: Float[Array, " b"], generated: Float[Array, " m"]) -> Float[Array, ""]:
    """V = E[log D(x, E(x))] + E[log(1 - D(G(z), z))] of logits: the discriminator maximises it; -2 log 2 where it
    knows nothing."""
    return jax.nn.log_sigmoid(encoded).mean() + jax.nn.log_sigmoid(-generated).mean()


def swapped(encoded: Float[Array, " b"], generated: Float[Array, " m"]) -> Float[Array, ""]:
    """E[log(1 - D(x, E(x)))] + E[log D(G(z), z)]: what encoder and generator maximise in place of -V, having the same
    fixed point and, while the discriminator wins, a gradient."""
    return value(-encoded, -generated)


class JointDiscriminator(nn.Module):
    """D(x, z), the logit: the body's last hidden layer, each image's normalised, beside the latent, one dense layer of
    leaky ReLU, dense to 1."""

    body: nn.Module
    hidden: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], z: Float[Array, "b latent"], train: bool = False
                 ) -> Float[Array, " b"]:
        _, hidden = self.body(x, update_stats=train)
        last = list(hidden.values())[-1].reshape(len(x), -1)
        joint = jnp.concatenate([nn.LayerNorm(name="norm")(last), z], axis=1)
        joint = nn.leaky_relu(nn.Dense(self.hidden, name="joint")(joint), 0.2)
        return nn.Dense(1, name="logit")(joint)[:, 0]


class Player(NamedTuple):
    """One of the three networks in training."""

    variables: Variables
    moments: optax.OptState


class Players(NamedTuple):
    encoder: Player
    generator: Player
    discriminator: Player


@dataclass(frozen=True)
class BiGan:
    """The three networks; Adam with b1 0.5, one step of the discriminator and then one of encoder and generator."""

    encoder: Headed
    """its head has as many outputs as a latent has numbers"""
    generator: nn.Module
    """(latents, train) -> images in [0, 1]"""
    discriminator: JointDiscriminator
    learning_rate: float

    @property
    def optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate, b1=0.5, b2=0.999)

    @property
    def latent(self) -> int:
        return self.encoder.outputs

    @partial(jax.jit, static_argnums=(0, 1))
    def start(self, image_shape: tuple[int, int, int], key: Key[Array, ""]) -> Players:
        e_key, g_key, d_key = jax.random.split(key, 3)
        images, latents = jnp.zeros((2, *image_shape)), jnp.zeros((2, self.latent))
        return Players(*(Player(variables, self.optimiser.init(variables["params"])) for variables in (
            started(self.encoder, image_shape, e_key), self.generator.init(g_key, latents, train=True),
            self.discriminator.init(d_key, images, latents, train=True))))

    @partial(jax.jit, static_argnums=0)
    def step(self, players: Players, images: UInt8[Any, "b h w c"], labels: Int32[Any, " b"], key: Key[Array, ""]
             ) -> tuple[Players, Terms]:
        del labels
        real = unit_range(jnp.asarray(images))
        first, second = jax.random.normal(key, (2, len(images), self.latent))
        discriminator, d_terms = self._step_discriminator(players, real, first)
        encoder, generator, terms = self._step_encoder_and_generator(players, discriminator.variables, real, second)
        return Players(encoder, generator, discriminator), d_terms | terms

    def _step_discriminator(self, players: Players, real: Float[Array, "b h w c"], latents: Float[Array, "b latent"]
                            ) -> tuple[Player, Terms]:
        (encoded, _), _ = self._encoded(players.encoder.variables, real)
        generated, _ = self._generated(players.generator.variables, latents)
        images, beside = jnp.concatenate([real, generated]), jnp.concatenate([encoded, latents])

        def loss(params: Any) -> tuple[Array, tuple[Variables, Array]]:
            logits, updated = self.discriminator.apply(
                {**players.discriminator.variables, "params": params}, images, beside, train=True,
                mutable=["batch_stats"])
            on_encoded, on_generated = jnp.split(logits, 2)
            accuracy = (jnp.mean(on_encoded > 0) + jnp.mean(on_generated < 0)) / 2
            return -value(on_encoded, on_generated), (updated, accuracy)

        params = players.discriminator.variables["params"]
        (lost, (updated, accuracy)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        params, moments = descend(self.optimiser, gradient, params, players.discriminator.moments)
        return Player({"params": params, **updated}, moments), {"value": -lost, "discriminator_accuracy": accuracy}

    def _step_encoder_and_generator(
        self, players: Players, discriminator: Variables, real: Float[Array, "b h w c"],
        latents: Float[Array, "b latent"],
    ) -> tuple[Player, Player, Terms]:
        def loss(params: tuple[Any, Any]) -> tuple[Array, tuple[Variables, Variables]]:
            (encoded, _), encoder = self._encoded({**players.encoder.variables, "params": params[0]}, real)
            generated, generator = self._generated({**players.generator.variables, "params": params[1]}, latents)
            logits = self.discriminator.apply(
                discriminator, jnp.concatenate([real, generated]), jnp.concatenate([encoded, latents]))
            return -swapped(*jnp.split(logits, 2)), (encoder, generator)

        both = (players.encoder, players.generator)
        (lost, updated), gradients = jax.value_and_grad(loss, has_aux=True)(
            tuple(player.variables["params"] for player in both))
        after = []
        for player, statistics, gradient in zip(both, updated, gradients, strict=True):
            params, moments = descend(self.optimiser, gradient, player.variables["params"], player.moments)
            after.append(Player({"params": params, **statistics}, moments))
        return after[0], after[1], {"encoder_generator_loss": lost}

    def _encoded(self, encoder: Variables, images: Float[Array, "b h w c"]) -> Any:
        return self.encoder.apply(encoder, images, train=True, mutable=["batch_stats"])

    def _generated(self, generator: Variables, latents: Float[Array, "b latent"]) -> Any:
        return self.generator.apply(generator, latents, train=True, mutable=["batch_stats"])
