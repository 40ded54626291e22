"""What a linear classifier reads from a representation; its strength is chosen on the validation split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer

from nfk.evaluation.accuracy import accuracy
from nfk.evaluation.features import Features, Labels
from nfk.evaluation.linear_classifiers import LinearClassifier, logistic_path, squared_hinge_path

PATIENCE = 2
"""So many strengths below the best before them end a path. A weaker penalty takes more steps, and beyond
the best it only fits the training images better: on 3,072 pixels of CIFAR-10 most of the time went there."""


class Probe(NamedTuple):
    """Test accuracy in [0, 1] of a linear classifier whose strength the validation split chose."""

    accuracy: float
    standard_error: float
    strength: float
    validation_accuracy: float
    at_end: bool
    """The strength is the first or last of the grid, and no other was as good: a better one may lie beyond it."""
    converged: bool
    """The chosen classifier reached its tolerance."""
    predictions: Integer[np.ndarray, " t"]
    """The class given to each test image."""


def logistic_probe(features: Features, labels: Labels, strengths: Sequence[float]) -> Probe:
    """Multinomial logistic regression on standardised features; see `linear_classifiers.logistic_path`."""
    path = logistic_path(features.train, labels.train, strengths)
    return _appraise(path, features, labels, strengths)


def squared_hinge_probe(features: Features, labels: Labels, strengths: Sequence[float]) -> Probe:
    """One-vs-rest squared hinge on standardised features; see `linear_classifiers.squared_hinge_path`."""
    path = squared_hinge_path(features.train, labels.train, strengths)
    return _appraise(path, features, labels, strengths)


class Choice(NamedTuple):
    """The classifier of a path that is best on the validation split, and its accuracy there."""

    classifier: LinearClassifier
    validation_accuracy: float
    alone: bool
    """No other was as good."""


def best_on_validation(path: Iterable[LinearClassifier], rows: Float[np.ndarray, "v d"],
                       labels: Integer[np.ndarray, " v"]) -> Choice:
    """The classifier with the highest validation accuracy; among equals the most strongly penalised.

    What follows `PATIENCE` strengths that are below the best before them is not fitted.
    """
    best, below = None, 0
    for classifier in path:
        choice = Choice(classifier, accuracy(classifier.predict(rows), labels).value, alone=True)
        if best is None or choice.validation_accuracy > best.validation_accuracy:
            best, below = choice, 0
        elif choice.validation_accuracy < best.validation_accuracy:
            below += 1
        else:
            best = best._replace(alone=False)
        if below == PATIENCE:
            break
    if best is None:
        raise ValueError("no strength to choose from; give at least one")
    return best


def _appraise(path: Iterable[LinearClassifier], features: Features, labels: Labels,
              strengths: Sequence[float]) -> Probe:
    chosen, validation_accuracy, alone = best_on_validation(path, features.validation, labels.validation)
    predictions = chosen.predict(features.test)
    return Probe(*accuracy(predictions, labels.test), chosen.strength, validation_accuracy,
                 at_end=alone and chosen.strength in (min(strengths), max(strengths)), converged=chosen.converged,
                 predictions=predictions)
