"""What a method of learning from few labels is, and what one step gives it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import optax
from jaxtyping import Array, Float, Key

Variables = dict[str, Any]
"""flax's collections: `params`, and `batch_stats` where the network has them."""
Settings = dict[str, Any]
"""What is chosen on the validation split, by name: numbers, traced, so that no value is compiled for."""
Kept = Any
"""What a method keeps beside the network (a teacher, a generator): a pytree."""


class Passed(NamedTuple):
    """What came out of the network."""

    logits: Float[Array, "b classes"]
    hidden: dict[str, Float[Array, "b ..."]]
    statistics: Variables
    """batch statistics, updated; empty where the network has none"""


@dataclass(frozen=True)
class Network:
    """A classifier's module, always in training mode: batch statistics, where it has them, are the batch's own."""

    module: nn.Module
    """(images in [0, 1], train) -> (logits, hidden layers by name, the last of them "penultimate")"""

    def __call__(self, variables: Variables, images: Float[Array, "b h w c"]) -> Passed:
        (logits, hidden), statistics = self.module.apply(variables, images, train=True, mutable=["batch_stats"])
        return Passed(logits, hidden, dict(statistics))


class Batch(NamedTuple):
    """What every method is given alike at one step, augmented, in [0, 1]."""

    labelled: Float[Array, "b h w c"]
    targets: Float[Array, "b classes"]
    """one-hot"""
    unlabelled: Float[Array, "k u h w c"]
    """k augmentations of each of u images, whose labels are not known"""


class Moment(NamedTuple):
    """Where in the training a step is."""

    settings: Settings
    progress: Float[Array, ""]
    """the part of the steps that is done, in [0, 1)"""
    key: Key[Array, ""]


class Loss(NamedTuple):
    value: Float[Array, ""]
    statistics: Variables
    """batch statistics to go on with"""


@dataclass(frozen=True)
class Method(ABC):
    """One method; hashable, so that equal ones are compiled once."""

    name: ClassVar[str]
    title: ClassVar[str]

    @property
    @abstractmethod
    def grid(self) -> tuple[dict[str, float], ...]:
        """The settings to choose from. A setting `rate` is a factor of the learning rate."""

    @abstractmethod
    def loss(self, network: Network, variables: Variables, kept: Kept, batch: Batch, moment: Moment) -> Loss:
        """What the classifier minimises."""

    def begin(self, network: Network, variables: Variables, images: Float[Array, "b h w c"], key: Key[Array, ""]
              ) -> Kept:
        """What is kept beside a network of these first weights; nothing, unless a method says otherwise."""
        del network, variables, images, key
        return ()

    def after(self, network: Network, variables: Variables, kept: Kept, batch: Batch, moment: Moment) -> Kept:
        """What is kept after a step that led to `variables`."""
        del network, variables, batch, moment
        return kept

    def read(self, variables: Variables, kept: Kept) -> Variables:
        """The weights that classify."""
        del kept
        return variables


def cross_entropy(targets: Float[Array, "b classes"], logits: Float[Array, "b classes"]) -> Float[Array, ""]:
    """-E[sum_y t_y log p_y], p the softmax of the logits, t any distribution."""
    return optax.softmax_cross_entropy(logits, targets).mean()
