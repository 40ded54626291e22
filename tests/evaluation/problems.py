"""Small classification problems whose answer is known."""

from __future__ import annotations

import numpy as np

from nfk.evaluation.features import Features, Labels


def clusters(seed: int, *, dimension: int = 12, classes: int = 3, train: int = 90, noise: float = 1.0,
             distance: float = 3.0) -> tuple[Features, Labels]:
    """Gaussian clusters, balanced classes: 40 validation and 60 test images.

    `noise` is the standard deviation of each coordinate, `distance` the centres' typical length.
    """
    rng = np.random.default_rng(seed)
    centres = distance * rng.normal(size=(classes, dimension)) / np.sqrt(dimension)
    parts, labels = [], []
    for count in (train, 40, 60):
        label = rng.permutation(np.arange(count) % classes)
        parts.append(centres[label] + noise * rng.normal(size=(count, dimension)))
        labels.append(label)
    return Features("clusters", *parts), Labels(*labels)


def mapped(features: Features, matrix: np.ndarray) -> Features:
    """Every row times `matrix`."""
    return Features("mapped", features.train @ matrix, features.validation @ matrix, features.test @ matrix)


def rotation(seed: int, dimension: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dimension, dimension)))[0]
