"""Precision and average precision against scikit-learn's, one query at a time."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from sklearn.metrics.pairwise import cosine_similarity, euclidean_distances

from nfk.evaluation.features import Features, Labels
from nfk.studies.retrieval import best_metric, retrieved


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_average_precision_is_the_reference(metric, seed):
    rng = np.random.default_rng(seed)
    gallery, queries = rng.normal(size=(60, 5)), rng.normal(size=(9, 5))
    classes, asked = rng.integers(0, 3, 60), rng.integers(0, 3, 9)
    found = retrieved(gallery, queries, classes, asked, (1, 7), metric)
    near = cosine_similarity(queries, gallery) if metric == "cosine" else -euclidean_distances(queries, gallery)
    each = [average_precision_score(classes == label, scores) for label, scores in zip(asked, near, strict=True)]
    assert found.mean_average_precision == pytest.approx(np.mean(each), rel=1e-9)
    assert found.standard_error == pytest.approx(np.std(each, ddof=1) / 3, rel=1e-9)
    nearest = np.argsort(-near, axis=1)[:, :7]
    assert found.precision[7] == pytest.approx(np.mean(classes[nearest] == asked[:, None]))
    assert found.precision[1] == pytest.approx(np.mean(classes[nearest[:, 0]] == asked))


def test_the_metric_is_chosen_on_validation():
    """Classes that differ by direction, rows of all lengths: cosine sees them, Euclidean distance does not."""
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    rows = (np.eye(3)[labels] + 0.05 * rng.normal(size=(90, 3))) * 10 ** rng.uniform(-2, 2, (90, 1))
    parts = [slice(0, 60), slice(60, 75), slice(75, 90)]
    features = Features("directions", *(rows[part] for part in parts))
    given = Labels(*(labels[part] for part in parts))
    assert best_metric(features, given) == "cosine"
    far = Features("far", *(rows[part] for part in parts[:1] * 3))
    assert retrieved(far.train, far.test, given.train, given.train, (1,), "cosine").precision[1] == 1
