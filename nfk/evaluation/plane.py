"""A map: rows of an embedding as points of the plane, near where they are near."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

PERPLEXITY = 30.0


def plane(rows: Float[np.ndarray, "n k"], *, seed: int) -> Float32[np.ndarray, "n 2"]:
    """t-SNE (scikit-learn's, Barnes-Hut) of the rows' directions, started from their two principal components.

    Rows are divided by their length first, so that near means a large cosine, as in a neighbour search. Distances
    within a cluster mean something, those between clusters little. Cost: 17 s for 3,500 rows of 64 numbers
    on one core, n log n. Raises ValueError for fewer than 5 rows.
    """
    if len(rows) < 5:
        raise ValueError(f"a map of {len(rows)} rows: needs at least 5")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    directions = (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    with threadpool_limits(limits=1):
        tsne = TSNE(perplexity=min(PERPLEXITY, (len(rows) - 1) / 3), init="pca", random_state=seed)
        return tsne.fit_transform(directions)
