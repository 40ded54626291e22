"""How much of the labels a representation saves: logistic probes of few labelled images.

The representation has seen all images, as in the paper's semi-supervised protocol; the probe sees the labels
of a few. Its strength is chosen on the whole validation split, for every representation alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Integer

from nfk.evaluation.accuracy import accuracy
from nfk.evaluation.features import Features, Labels
from nfk.evaluation.linear_classifiers import logistic_path
from nfk.evaluation.linear_probe import best_on_validation


class FewLabels(NamedTuple):
    """Test accuracies in [0, 1] of one number of labels, over the draws of the labelled images."""

    mean: float
    standard_deviation: float
    """Over draws, with n - 1: how much one draw of labels differs from the next, not the mean's error."""
    draws: tuple[float, ...]


class PairedDifference(NamedTuple):
    """Of two representations' accuracies, draw by draw of the same labelled images."""

    mean: float
    standard_error: float
    """Of the mean: the differences' standard deviation over the root of their number."""


def few_labels(features: Features, labels: Labels, counts: Sequence[int], *, draws: int,
               strengths: Sequence[float], seed: int) -> dict[int, FewLabels]:
    """Test accuracy at each number of labels, over `draws` draws, on standardised features.

    Draws depend on the labels and `seed` alone: every representation is given the same ones.
    """
    orders = [balanced_order(labels.train, max(counts), seed=seed, draw=draw) for draw in range(draws)]
    found = {}
    for count in counts:
        values = tuple(_accuracy(features, labels, order[:count], strengths) for order in orders)
        found[count] = FewLabels(float(np.mean(values)), float(np.std(values, ddof=1)), values)
    return found


def why_not(labels: Integer[np.ndarray, " n"], count: int) -> str:
    """Why no `count` labels can be drawn such that classes differ by at most one; empty where they can."""
    classes, sizes = np.unique(labels, return_counts=True)
    if count < len(classes):
        return f"{count:,} is less than the {len(classes)} classes"
    turns = math.ceil(count / len(classes))
    if sizes.min() < turns:
        return f"{count:,} takes {turns:,} images of each class, class {classes[sizes.argmin()]} has {sizes.min():,}"
    return ""


def balanced_order(labels: Integer[np.ndarray, " n"], count: int, *, seed: int,
                   draw: int) -> Int[np.ndarray, " count"]:
    """`count` rows such that classes differ by at most one image in every leading part.

    So the draws of one number of labels are nested in those of a larger one: images are shuffled within
    their class, and the classes, shuffled, take turns.

    Raises:
        ValueError: fewer labels than classes, or a class too small for its turns.
    """
    if reason := why_not(labels, count):
        raise ValueError(f"{count} labels cannot be drawn: {reason}; choose another number")
    classes = np.unique(labels)
    turns = math.ceil(count / len(classes))
    rng = np.random.default_rng([seed, draw])
    taken = [rng.permutation(np.flatnonzero(labels == label))[:turns] for label in rng.permutation(classes)]
    return np.stack(taken, axis=1).ravel()[:count]


def paired_difference(a: FewLabels, b: FewLabels) -> PairedDifference:
    """The mean of a - b over the same draws, and its standard error sd / sqrt(draws).

    It is the error from the draw of labels; the test images are the same in all of them.
    """
    if len(a.draws) != len(b.draws):
        raise ValueError(f"{len(a.draws)} draws against {len(b.draws)}: only the same draws can be paired")
    differences = np.subtract(a.draws, b.draws)
    return PairedDifference(float(differences.mean()),
                            float(differences.std(ddof=1) / math.sqrt(len(differences))))


def _accuracy(features: Features, labels: Labels, rows: Int[np.ndarray, " k"],
              strengths: Sequence[float]) -> float:
    path = logistic_path(features.train[rows], labels.train[rows], strengths)
    classifier = best_on_validation(path, features.validation, labels.validation).classifier
    return accuracy(classifier.predict(features.test), labels.test).value
