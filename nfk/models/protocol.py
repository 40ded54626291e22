"""What a trained network must offer. Families satisfy it by shape; nothing inherits from it.

A network of your own joins the pipeline by a family entry

    families:
      mine: {model: "my_package.my_module:build", options: {width: 8}}

where my_package lies in the project's folder or is installed, and

    def build(options: dict, image_shape: tuple[int, int, int], classes: int): ...

returns, equal at every call, an object with `params` (any pytree of arrays) and `log_density` as below, and optionally

    sample(key, count)             images of its own; without it statistics are taken over the training images
    activations(x)                 for the baselines of `evaluate`
    with_params(params)            the same network with those weights
    train(images, labels, validation, key, progress=, checkpoint=) -> nfk.training.Trained
                                   as the shipped families have it (`nfk.models.classifier`); wants with_params
    initial(key)                   the untrained network of that key

Without `train` it is trained already, and `pretrain` only keeps its weights. The card has the SHA-256 of the module's
file, and later stages refuse the network when the file has changed; what that file imports is not watched, and DVC runs
`pretrain` again for it only if you add it to that stage's deps in dvc.yaml. `log_density` should compute in the dtype
of `params`, so that rounding can be judged in float64. Errors of the function are told in one line, --debug shows all.
"""

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

    @property
    def params(self) -> PyTree:
        """theta: the parameters the Fisher score is taken in (for a GAN: the discriminator's), float32."""

    def log_density(self, params: PyTree, x: Float[Array, "h w c"], key: Key[Array, ""]) -> Float[Array, ""]:
        """s(x; theta): the log density of one image up to a constant. Deterministic given (params, x, key)."""

    def sample(self, key: Key[Array, ""], count: int) -> Float[np.ndarray, "n h w c"] | None:
        """`count` images from the model's own distribution, in [0, 1]; None where the paper uses the data."""

    def activations(self, x: Float[Array, "b h w c"]) -> dict[str, Float[Array, "b ..."]]:
        """Every hidden layer's output by name, in order, unpooled: the baseline representations."""


@runtime_checkable
class Generator(Protocol):
    """What a network may offer beyond: its samples as a function of their latents, which are N(0, I)."""

    latents: int
    """numbers of a latent"""

    def generate(self, latents: Float[np.ndarray, "n z"]) -> Float[np.ndarray, "n h w c"]:
        """The image of each latent, in [0, 1]."""


@runtime_checkable
class NoisyPotential(Protocol):
    """What a network may offer beyond: a potential that is a mean over draws of noise, as a function of them."""

    noise_shape: tuple[int, ...]
    """of one draw, N(0, 1) in each entry"""

    def log_density_given(
        self, params: PyTree, x: Float[Array, "h w c"], noise: Float[Array, "draws ..."] | None
    ) -> Float[Array, ""]:
        """s(x; theta) as the mean over these draws; None: without noise."""
