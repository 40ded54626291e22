"""Mean Teacher (Tarvainen, Valpola 2017): the network agrees with the moving average of its own weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32, Key

from nfk.studies.few_label_methods.method import Batch, Kept, Loss, Method, Moment, Network, Variables, cross_entropy


class Teacher(NamedTuple):
    variables: Variables
    steps: Int32[Array, ""]


def disagreement(student: Float[Array, "b classes"], teacher: Float[Array, "b classes"]) -> Float[Array, ""]:
    """The mean square of the difference of probabilities, over images and classes; the teacher's are constants."""
    return jnp.square(jax.nn.softmax(student) - lax.stop_gradient(jax.nn.softmax(teacher))).mean()


def risen(progress: Float[Array, ""], ramp: float) -> Float[Array, ""]:
    """exp(-5 (1 - T)^2), T = progress / ramp up to 1: what the weight is multiplied by."""
    return jnp.exp(-5 * jnp.square(1 - jnp.minimum(progress / ramp, 1)))


def followed(teacher: Variables, student: Variables, steps: Int32[Array, ""], decay: float) -> Variables:
    """a <- d a + (1 - d) theta, d = min(1 - 1 / (steps + 1), decay): at first the plain mean of the weights so far."""
    kept = jnp.minimum(1 - 1 / (steps.astype(jnp.float32) + 1), decay)
    return jax.tree.map(lambda mean, now: kept * mean + (1 - kept) * now, teacher, student)


@dataclass(frozen=True)
class MeanTeacher(Method):
    """Cross-entropy on labelled images plus weight * `risen` * `disagreement` on unlabelled ones, student and teacher
    each with an augmentation of its own; the teacher classifies."""

    name, title = "mean_teacher", "Mean Teacher"
    weights: tuple[float, ...]
    decay: float
    ramp: float

    @property
    def grid(self) -> tuple[dict[str, float], ...]:
        return tuple({"weight": weight} for weight in self.weights)

    def begin(self, network: Network, variables: Variables, images: Float[Array, "b h w c"], key: Key[Array, ""]
              ) -> Teacher:
        return Teacher(variables, jnp.zeros((), jnp.int32))

    def loss(self, network: Network, variables: Variables, kept: Kept, batch: Batch, moment: Moment) -> Loss:
        passed = network(variables, jnp.concatenate([batch.labelled, batch.unlabelled[0]]))
        on_labelled, student = jnp.split(passed.logits, [len(batch.labelled)])
        teacher = network(kept.variables, batch.unlabelled[1]).logits
        weight = moment.settings["weight"] * risen(moment.progress, self.ramp)
        return Loss(cross_entropy(batch.targets, on_labelled) + weight * disagreement(student, teacher),
                    passed.statistics)

    def after(self, network: Network, variables: Variables, kept: Kept, batch: Batch, moment: Moment) -> Teacher:
        return Teacher(followed(kept.variables, variables, kept.steps + 1, self.decay), kept.steps + 1)

    def read(self, variables: Variables, kept: Kept) -> Variables:
        return kept.variables
