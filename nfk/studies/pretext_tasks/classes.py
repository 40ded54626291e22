"""A body trained to tell classes: of labels, or of rotations (RotNet: Gidaris, Singh, Komodakis 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int32, Key, UInt8

from nfk.models.classifier import Fitted, cross_entropy_step, shift
from nfk.studies.pretext_tasks.body import Headed, Variables
from nfk.training import Terms, unit_range

ROTATIONS = 4


def rotations(images: UInt8[Array, "b h h c"]) -> tuple[UInt8[Array, "4*b h h c"], Int32[Array, " 4*b"]]:
    """Every image turned by 0, 90, 180 and 270 degrees counter-clockwise, and by how many right angles: the label."""
    turned = [jnp.rot90(images, quarter, axes=(1, 2)) for quarter in range(ROTATIONS)]
    return jnp.concatenate(turned), jnp.repeat(jnp.arange(ROTATIONS, dtype=jnp.int32), len(images))


@dataclass(frozen=True)
class Labelled:
    """Cross-entropy of the labels, images moved by up to a pixel; Adam, its rate falling by a cosine to zero."""

    network: Headed
    learning_rate: float
    steps: int
    title: ClassVar[str] = "supervised training"

    @property
    def optimiser(self) -> optax.GradientTransformation:
        return optax.adam(optax.cosine_decay_schedule(self.learning_rate, self.steps))

    def start(self, variables: Variables) -> Fitted:
        return Fitted(variables, self.optimiser.init(variables["params"]))

    def examples(self, images: UInt8[Array, "b h w c"], labels: Int32[Array, " b"], key: Key[Array, ""]
                 ) -> tuple[UInt8[Array, "m h w c"], Int32[Array, " m"]]:
        """A batch as the network sees it, and what it is to tell."""
        return shift(images, key), labels

    @partial(jax.jit, static_argnums=0)
    def step(self, state: Fitted, images: UInt8[Any, "b h w c"], labels: Int32[Any, " b"], key: Key[Array, ""]
             ) -> tuple[Fitted, Terms]:
        seen, answers = self.examples(jnp.asarray(images), jnp.asarray(labels), key)
        return cross_entropy_step(self.network, self.optimiser, state, unit_range(seen), answers)


@dataclass(frozen=True)
class RotNet(Labelled):
    """Which of four rotations each image has: all four of every image are in the batch; labels are not read."""

    title: ClassVar[str] = "RotNet"

    def examples(self, images: UInt8[Array, "b h w c"], labels: Int32[Array, " b"], key: Key[Array, ""]
                 ) -> tuple[UInt8[Array, "m h w c"], Int32[Array, " m"]]:
        del labels
        return rotations(shift(images, key))
