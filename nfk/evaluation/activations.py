"""A network's hidden layers as representations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from nfk.evaluation.features import pool

_BLOCK = 256


def hidden_layers(
    batch: Callable[[Any], dict[str, Array]], examples: Any
) -> dict[str, Float[np.ndarray, "n _"]]:
    """Every hidden layer of each example, convolutions pooled (`pool`), by name. Cost: one pass of the network.

    batch: a model's `activations`, jitted, or what else takes a block of examples and gives layers by name; none where
    the network tells none. examples: images that can be cut by rows, in the range that `batch` takes.
    """
    parts: dict[str, list[np.ndarray]] = {}
    for start in range(0, examples.shape[0], _BLOCK):
        for name, values in batch(examples[start : start + _BLOCK]).items():
            flat = np.asarray(values)
            parts.setdefault(name, []).append(pool(flat) if flat.ndim == 4 else flat.reshape(len(flat), -1))
    return {name: np.concatenate(blocks) for name, blocks in parts.items()}
