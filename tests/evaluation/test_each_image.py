"""What is said of each image agrees with what is said of all, and with slow sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nfk.evaluation.each_image import isolation, read_each
from nfk.evaluation.linear_probe import logistic_probe
from nfk.evaluation.plane import plane
from tests.evaluation.problems import clusters

STRENGTHS = (0.01, 1.0)


def test_predictions_are_the_probes_and_surprise_is_of_the_label():
    features, labels = clusters(0, distance=2.0)
    reading = read_each(features, labels, STRENGTHS)
    assert np.array_equal(reading.predictions, logistic_probe(features, labels, STRENGTHS).predictions)
    wrong = reading.predictions != labels.test
    assert 0 < wrong.sum() < len(wrong)
    assert reading.surprise[wrong].min() >= 1, "another class has at least half, or all have less"
    # the probabilities of the three classes sum to one
    each = [2.0 ** -read_each(features, replace(labels, test=np.full_like(labels.test, label)), STRENGTHS).surprise
            for label in range(3)]
    assert np.sum(each, axis=0) == pytest.approx(np.ones(len(wrong)))


def test_a_class_without_training_images_is_an_infinite_surprise():
    features, labels = clusters(1)
    strange = labels.test.copy()
    strange[5] = 9
    surprise = read_each(features, replace(labels, test=strange), STRENGTHS).surprise
    assert np.isinf(surprise[5])
    assert np.isfinite(np.delete(surprise, 5)).all()


@pytest.mark.parametrize("count", [3, 50])
def test_isolation_is_the_mean_distance_to_others(count):
    rng = np.random.default_rng(2)
    train, new = rng.normal(size=(20, 5)), rng.normal(size=(4, 5))
    train[7] = train[3]  # twins are each other's neighbours
    found = isolation(train, np.concatenate([train, new]), np.array([*range(20), -1, -1, -1, -1]), count)
    for row, query in enumerate(np.concatenate([train, new])):
        others = train[np.arange(20) != row]
        cosines = others @ query / np.linalg.norm(others, axis=1) / np.linalg.norm(query)
        assert found[row] == pytest.approx(np.mean(np.sort(1 - cosines)[:min(count, 19)]), abs=1e-12)


def test_a_map_keeps_clusters_and_repeats():
    features, labels = clusters(3, distance=8.0)
    points = plane(features.train, seed=0)
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    np.fill_diagonal(distances, np.inf)
    assert np.mean(labels.train[distances.argmin(axis=1)] == labels.train) > 0.95
    assert np.array_equal(points, plane(3 * features.train, seed=0)), "lengths do not count"
    with pytest.raises(ValueError, match="a map of 4 rows: needs at least 5"):
        plane(features.train[:4], seed=0)
