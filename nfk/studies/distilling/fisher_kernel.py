"""NFK distillation: Zhang et al. 2022, appendix D.2, L = alpha CE + (1 - alpha) L_t(h_s(x), Q_t(x)).

Q_t(x) in R^k is the teacher's embedding, h_s a linear head on the student's penultimate features. The paper leaves the
size of Q_t open, on which the L2 distance depends: here `unit_size` divides it by one number, so that its entries
have a mean square of one and the components keep their ratios, sqrt(lambda_i).
"""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nfk.studies.distilling.seen import Seen

_TINY = 1e-12


def unit_size(embedding: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """The embedding over the root of its mean square."""
    return embedding / max(float(np.sqrt(np.mean(np.square(embedding, dtype=np.float64)))), _TINY)


def squared_distance(head: Float[Array, "b k"], embedding: Float[Array, "b k"]) -> Float[Array, ""]:
    """mean over images and components of (h - Q)^2"""
    return jnp.mean((head - embedding) ** 2)


def cosine_distance(head: Float[Array, "b k"], embedding: Float[Array, "b k"]) -> Float[Array, ""]:
    """mean over images of 1 - <h, Q> / (|h| |Q|)"""
    inner = jnp.sum(head * embedding, axis=1)
    return jnp.mean(1 - inner / jnp.sqrt(jnp.sum(head**2, axis=1) * jnp.sum(embedding**2, axis=1) + _TINY))


class FisherKernel(nn.Module):
    distance: Literal["l2", "cosine"]

    @nn.compact
    def __call__(self, seen: Seen) -> Float[Array, ""]:
        head = nn.Dense(seen.embedding.shape[1], name="head")(seen.features)
        return {"l2": squared_distance, "cosine": cosine_distance}[self.distance](head, seen.embedding)
