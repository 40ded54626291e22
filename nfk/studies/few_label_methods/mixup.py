"""Mixup (Zhang, Cisse, Dauphin, Lopez-Paz 2018): straight lines between examples and between their labels.

Made semi-supervised as Berthelot et al. 2019 do for their comparison, whose figures the paper's Table 2 has: unlabelled
images are mixed too, each with the network's own prediction for a label.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from nfk.studies.few_label_methods.method import Batch, Kept, Loss, Method, Moment, Network, Variables, cross_entropy


def mixed(
    first: Float[Array, " b *shape"], second: Float[Array, " b *shape"], share: Float[Array, " b"]
) -> Float[Array, " b *shape"]:
    """share * first + (1 - share) * second, a share for each row."""
    share = share.reshape(-1, *(1,) * (first.ndim - 1))
    return share * first + (1 - share) * second


@dataclass(frozen=True)
class Mixup(Method):
    """Cross-entropy of lambda x + (1 - lambda) x' against lambda y + (1 - lambda) y', x' the batch in another order,
    lambda ~ Beta(alpha, alpha), one a batch: over labelled images, plus over unlabelled ones with predictions for y."""

    name, title = "mixup", "Mixup"
    alphas: tuple[float, ...]

    @property
    def grid(self) -> tuple[dict[str, float], ...]:
        return tuple({"alpha": alpha} for alpha in self.alphas)

    def loss(self, network: Network, variables: Variables, kept: Kept, batch: Batch, moment: Moment) -> Loss:
        del kept
        keys, alpha = jax.random.split(moment.key, 4), moment.settings["alpha"]
        unlabelled = batch.unlabelled[0]
        guesses = lax.stop_gradient(jax.nn.softmax(network(variables, unlabelled).logits))
        images, targets = [], []
        for known, labels, share_key, order_key in (
                (batch.labelled, batch.targets, keys[0], keys[1]), (unlabelled, guesses, keys[2], keys[3])):
            share = jnp.full(len(known), jax.random.beta(share_key, alpha, alpha))
            order = jax.random.permutation(order_key, len(known))
            images.append(mixed(known, known[order], share))
            targets.append(mixed(labels, labels[order], share))
        passed = network(variables, jnp.concatenate(images))
        on_labelled, on_unlabelled = jnp.split(passed.logits, [len(batch.labelled)])
        return Loss(cross_entropy(targets[0], on_labelled) + cross_entropy(targets[1], on_unlabelled),
                    passed.statistics)
