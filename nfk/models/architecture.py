"""What a network's card says of its make."""

from __future__ import annotations

from typing import Any

import jax
from jaxtyping import PyTree

from nfk.section import Section


def architecture(
    config: Section, image_shape: tuple[int, int, int], classes: int, params: PyTree
) -> dict[str, Any]:
    """All that makes the untrained network again, and `parameters`, the number of entries of theta."""
    settings = config.model_dump()
    return {
        "model": settings["model"],
        "config": settings,
        "image_shape": list(image_shape),
        "classes": classes,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
    }
