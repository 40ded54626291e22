"""The share of right answers, and how far chance moves it."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer


class Accuracy(NamedTuple):
    """The share of m test images that are answered rightly, in [0, 1], and how far chance moves it."""

    value: float
    standard_error: float
    """sqrt(a (1 - a) / m) over m test images: the binomial error of a fixed classifier."""


def accuracy(predictions: Integer[np.ndarray, " m"], labels: Integer[np.ndarray, " m"]) -> Accuracy:
    """The share of predictions equal to the labels, with its binomial standard error."""
    value = float(np.mean(predictions == labels))
    return Accuracy(value, math.sqrt(value * (1 - value) / len(labels)))
