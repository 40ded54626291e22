"""How well a score tells outliers from what the network knows, whatever threshold is set."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from sklearn.metrics import roc_auc_score


class Auroc(NamedTuple):
    value: float
    """P(score of an outlier > score of an inlier), ties half; 0.5 tells nothing"""
    standard_error: float


def auroc(inliers: Float[np.ndarray, " m"], outliers: Float[np.ndarray, " n"]) -> Auroc:
    """The area under the ROC curve, with DeLong's standard error (DeLong, DeLong, Clarke-Pearson 1988).

    Each outlier's share of the inliers below it, and each inlier's of the outliers above it, have the area as their
    mean; its variance is that of the first over n plus that of the second over m. Raises ValueError for fewer than two
    of either.
    """
    if min(len(inliers), len(outliers)) < 2:
        raise ValueError(f"{len(inliers)} inliers and {len(outliers)} outliers: the error wants at least 2 of each")
    truth = np.repeat([0, 1], [len(inliers), len(outliers)])
    value = float(roc_auc_score(truth, np.concatenate([inliers, outliers])))
    above = _share_below(np.sort(inliers), outliers)
    below = 1 - _share_below(np.sort(outliers), inliers)
    return Auroc(value, math.sqrt(above.var(ddof=1) / len(outliers) + below.var(ddof=1) / len(inliers)))


def _share_below(sorted_scores: Float[np.ndarray, " m"], scores: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    return (np.searchsorted(sorted_scores, scores, "left") + np.searchsorted(sorted_scores, scores, "right")) / (
        2 * len(sorted_scores))
