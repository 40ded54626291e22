"""What the nearest training images say: no weights are learnt, so it judges the representation's metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Integer
from scipy.stats import mode
from sklearn.neighbors import NearestNeighbors

from nfk.evaluation.accuracy import accuracy
from nfk.evaluation.features import Features, Labels

Metric = Literal["cosine", "euclidean"]
METRICS: tuple[Metric, ...] = ("cosine", "euclidean")


class NeighbourVote(NamedTuple):
    """Test accuracy in [0, 1] of the majority of the nearest training images, and what the validation split chose."""

    accuracy: float
    standard_error: float
    neighbours: int
    metric: Metric
    validation_accuracy: float


def neighbour_vote(features: Features, labels: Labels, neighbours: Sequence[int]) -> NeighbourVote:
    """The majority class of the nearest training images; their number and the metric chosen on validation.

    A tied vote goes to the lowest class, as in scikit-learn's KNeighborsClassifier; among equal validation
    accuracies the first metric and the fewest neighbours win. Cost: n d multiply-adds an image and metric.
    """
    if max(neighbours) > len(features.train):
        raise ValueError(f"evaluate.neighbours={max(neighbours)} exceeds {len(features.train)} training "
                         "images; lower it in params.yaml")
    # best by validation accuracy; `max` keeps the first of equals
    candidates = [
        (accuracy(votes, labels.validation).value, metric, count)
        for metric in METRICS
        for count, votes in _votes(features.train, labels.train, features.validation,
                                   sorted(neighbours), metric)]
    validation_accuracy, metric, count = max(candidates, key=lambda candidate: candidate[0])
    [(_, votes)] = _votes(features.train, labels.train, features.test, [count], metric)
    return NeighbourVote(*accuracy(votes, labels.test), count, metric, validation_accuracy)


def nearest(train: Float[np.ndarray, "n d"], queries: Float[np.ndarray, "m d"], count: int,
            metric: Metric) -> Int[np.ndarray, "m count"]:
    """The rows of `train` nearest to each query, nearest first."""
    search = NearestNeighbors(n_neighbors=count, algorithm="brute", metric=metric).fit(train)
    return search.kneighbors(queries, return_distance=False)


def _votes(train: Float[np.ndarray, "n d"], labels: Integer[np.ndarray, " n"],
           queries: Float[np.ndarray, "m d"], counts: Sequence[int],
           metric: Metric) -> list[tuple[int, Integer[np.ndarray, " m"]]]:
    """Each number of neighbours with its majority classes, from one search."""
    found = labels[nearest(train, queries, max(counts), metric)]
    return [(count, mode(found[:, :count], axis=1).mode) for count in counts]
