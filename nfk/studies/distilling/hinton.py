"""KD: Hinton, Vinyals, Dean 2015, "Distilling the knowledge in a neural network"."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nfk.studies.distilling.seen import Seen


def softened_divergence(
    student: Float[Array, "b classes"], teacher: Float[Array, "b classes"], temperature: float
) -> Float[Array, ""]:
    """T^2 times the mean over images of KL(softmax(teacher / T) || softmax(student / T)).

    The paper's cross-entropy of the two is this and a number of the teacher's alone; T^2 keeps the gradient's size.
    """
    log_taught, log_said = jax.nn.log_softmax(teacher / temperature), jax.nn.log_softmax(student / temperature)
    return temperature**2 * jnp.mean(jnp.sum(jnp.exp(log_taught) * (log_taught - log_said), axis=1))


class SoftTargets(nn.Module):
    temperature: float

    def __call__(self, seen: Seen) -> Float[Array, ""]:
        return softened_divergence(seen.logits, seen.teacher_logits, self.temperature)
