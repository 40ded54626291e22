"""What a probe and the neighbours say of each single image, where the evaluation gives means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer
from scipy.special import log_softmax
from sklearn.neighbors import NearestNeighbors

from nfk.evaluation.features import Features, Labels, standardise
from nfk.evaluation.linear_classifiers import logistic_path
from nfk.evaluation.linear_probe import best_on_validation


class Reading(NamedTuple):
    """Of each image of `test`."""

    predictions: Integer[np.ndarray, " t"]
    surprise: Float[np.ndarray, " t"]
    """-log2 of the probability given to its own label, in bits; infinite for a class without training images"""


def read_each(features: Features, labels: Labels, strengths: Sequence[float]) -> Reading:
    """The logistic probe of `evaluate` (standardised, strength chosen on validation) on each row of `test`.

    Rows of `test` that are training rows too are read by a probe that has seen their labels.
    """
    features = standardise(features)
    classifier = best_on_validation(logistic_path(features.train, labels.train, strengths),
                                    features.validation, labels.validation).classifier
    bits = -log_softmax(features.test @ classifier.weights.T + classifier.offsets, axis=1) / np.log(2)
    own = labels.test[:, None] == classifier.classes
    return Reading(classifier.predict(features.test),
                   np.where(own.any(axis=1), np.where(own, bits, 0).sum(axis=1), np.inf))


def isolation(train: Float[np.ndarray, "n k"], queries: Float[np.ndarray, "m k"], itself: Integer[np.ndarray, " m"],
              count: int = 10) -> Float[np.ndarray, " m"]:
    """Mean cosine distance (1 - cosine) of each query to its `count` nearest rows of `train`, at most n - 1.

    itself: the query's own row in `train`, which does not count; -1 where it has none. Cost: n k multiply-adds a query.
    """
    count = min(count, len(train) - 1)
    search = NearestNeighbors(n_neighbors=count + 1, algorithm="brute", metric="cosine").fit(train)
    distances, found = search.kneighbors(queries)
    others = found != itself[:, None]
    others &= np.cumsum(others, axis=1) <= count
    return np.where(others, distances, 0).sum(axis=1) / count
