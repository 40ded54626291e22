"""What each component means: the images at its two ends (the paper's figure 6 shows the upper one)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Extremes(NamedTuple):
    """Image indices, the most extreme first, a row for each component."""

    largest: Int[np.ndarray, "components images"]
    smallest: Int[np.ndarray, "components images"]


def extremes(embedding: Float[np.ndarray, "n k"], *, components: int = 5, images: int = 8) -> Extremes:
    """The images with the largest and with the smallest (most negative) coordinate on the leading components.

    Which end is which is fixed by the embedding's sign convention, not by the network.
    """
    n, k = embedding.shape
    if not 1 <= components <= k or not 1 <= images <= n:
        raise ValueError(f"components={components}, images={images}: the embedding has {k} components "
                         f"of {n} images")
    order = np.argsort(embedding[:, :components], axis=0, kind="stable").T
    return Extremes(largest=order[:, ::-1][:, :images], smallest=order[:, :images])
