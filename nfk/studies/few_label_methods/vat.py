"""Virtual adversarial training (Miyato, Maeda, Koyama, Ishii 2018): predictions that no small step changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

from nfk.studies.few_label_methods.method import Batch, Kept, Loss, Method, Moment, Network, Variables, cross_entropy

Logits = Callable[[Float[Array, "b h w c"]], Float[Array, "b classes"]]

PROBE = 0.1
"""xi, the length at which the divergence's gradient is taken: short beside the perturbation, long beside rounding."""


def divergence(before: Float[Array, "b classes"], after: Float[Array, "b classes"]) -> Float[Array, " b"]:
    """KL(p || q) of each row, p and q the softmax of these logits."""
    log_p, log_q = jax.nn.log_softmax(before), jax.nn.log_softmax(after)
    return (jnp.exp(log_p) * (log_p - log_q)).sum(axis=1)


def adversarial_direction(
    logits: Logits, images: Float[Array, "b h w c"], clean: Float[Array, "b classes"], key: Key[Array, ""]
) -> Float[Array, "b h w c"]:
    """The unit step that changes each prediction most: one power iteration on the divergence's Hessian.

    d <- g / |g|, g = grad_r KL(p(x) || p(x + r)) at r = xi d, from a random unit d. Cost: one forward and one backward
    pass.
    """
    start = _unit(jax.random.normal(key, images.shape))
    gradient = jax.grad(lambda step: divergence(clean, logits(images + step)).sum())(PROBE * start)
    return _unit(gradient)


def smoothness(
    logits: Logits, images: Float[Array, "b h w c"], clean: Float[Array, "b classes"],
    step: Float[Array, "b h w c"],
) -> Float[Array, ""]:
    """E[KL(p(x) || p(x + step))], p(x), by its logits `clean`, a constant: the local distributional smoothness."""
    return divergence(lax.stop_gradient(clean), logits(images + step)).mean()


def _unit(steps: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Each of Euclidean length 1; zero where there is no direction."""
    lengths = jnp.sqrt(jnp.square(steps).sum(axis=(1, 2, 3), keepdims=True))
    return steps / jnp.maximum(lengths, 1e-20)


@dataclass(frozen=True)
class Vat(Method):
    """Cross-entropy on labelled images plus the smoothness on unlabelled ones, of weight 1, for steps of one size."""

    name, title = "vat", "VAT"
    sizes: tuple[float, ...]

    @property
    def grid(self) -> tuple[dict[str, float], ...]:
        return tuple({"size": size} for size in self.sizes)

    def loss(self, network: Network, variables: Variables, kept: Kept, batch: Batch, moment: Moment) -> Loss:
        del kept
        unlabelled = batch.unlabelled[0]
        passed = network(variables, jnp.concatenate([batch.labelled, unlabelled]))
        on_labelled, clean = jnp.split(passed.logits, [len(batch.labelled)])
        frozen = lax.stop_gradient(variables)
        direction = adversarial_direction(lambda images: network(frozen, images).logits, unlabelled,
                                          lax.stop_gradient(clean), moment.key)
        rough = smoothness(lambda images: network(variables, images).logits, unlabelled, clean,
                           moment.settings["size"] * direction)
        return Loss(cross_entropy(batch.targets, on_labelled) + rough, passed.statistics)
