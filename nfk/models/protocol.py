"""What a trained network must offer. Families satisfy it by shape; nothing inherits from it."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Key

PyTree = Any


@runtime_checkable
class TrainedModel(Protocol):
    """A network with one scalar per image, and a way to draw images of its own.

    Images are float32 in [0, 1] everywhere here, (h, w, c) or (n, h, w, c); a model that wants another
    range scales inside. Evaluation mode always: running batch statistics, frozen spectral norms.
    """

    params: PyTree
    """theta: the parameters the Fisher score is taken in (for a GAN: the discriminator's), float32."""

    def log_density(self, params: PyTree, x: Float[Array, "h w c"], key: Key[Array, ""]) -> Float[Array, ""]:
        """s(x; theta): the log density of one image up to a constant. Deterministic given (params, x, key)."""

    def sample(self, key: Key[Array, ""], count: int) -> Float[np.ndarray, "n h w c"] | None:
        """`count` images from the model's own distribution, in [0, 1]; None where the paper uses the data."""

    def activations(self, x: Float[Array, "b h w c"]) -> dict[str, Float[Array, "b ..."]]:
        """Every hidden layer's output by name, in order, unpooled: the baseline representations."""
