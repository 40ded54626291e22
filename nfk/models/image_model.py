"""What the shipped networks have in common: fields, parameters and the card's entries."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import Any

from jaxtyping import PyTree

from nfk.family_params import FamilyParams
from nfk.models.architecture import architecture


@dataclass(frozen=True)
class ImageModel(ABC):
    """A network of images of one shape, as `nfk.models.protocol.TrainedModel` wants it; each kind adds its potential,
    activations, samples and training."""

    config: FamilyParams
    image_shape: tuple[int, int, int]
    classes: int
    variables: dict[str, Any]
    """flax's collections: `params`, and `batch_stats` where the network has them"""

    @property
    def params(self) -> PyTree:
        """theta: every kernel and bias."""
        return self.variables["params"]

    @property
    def architecture(self) -> dict[str, Any]:
        """What `initial` needs to make this network again, and theta's size."""
        return architecture(self.config, self.image_shape, self.classes, self.params)
