"""The paths reach the optima of the reference implementations, from every coordinate system."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from nfk.evaluation import linear_classifiers
from nfk.evaluation.features import standardise
from nfk.evaluation.linear_classifiers import C_PER_STRENGTH, logistic_path, squared_hinge_path
from tests.evaluation.problems import clusters, mapped, rotation

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
PATHS = pytest.mark.parametrize("path", [logistic_path, squared_hinge_path])


def scores(classifier, rows):
    return rows @ classifier.weights.T + classifier.offsets


@PATHS
def test_separable_classes_are_separated(path):
    features, labels = clusters(0, noise=0.01)
    *_, weakest = path(standardise(features).train, labels.train, STRENGTHS)
    np.testing.assert_array_equal(weakest.predict(standardise(features).test), labels.test)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("dimension", [5, 300])
def test_logistic_path_ends_at_the_optimum_of_a_cold_start(dimension, classes):
    features, labels = clusters(1, dimension=dimension, classes=classes)
    train = standardise(features).train
    for found in logistic_path(train, labels.train, STRENGTHS):
        alone = LogisticRegression(C=C_PER_STRENGTH * found.strength, tol=1e-8, max_iter=5000)
        alone.fit(train, labels.train)
        expected = alone.decision_function(train)
        ours = scores(found, train)
        if classes == 2:
            ours = ours[:, 1]
            expected = expected.ravel()
        np.testing.assert_allclose(ours, expected, atol=2e-2 * np.abs(expected).max())
        assert found.converged


def squared_hinge(weights, offsets, rows, labels, strength):
    targets = np.where(labels[:, None] == np.unique(labels), 1.0, -1.0)
    slack = np.maximum(0, 1 - targets * (rows @ weights.T + offsets))
    return (weights**2).sum() / 2 + C_PER_STRENGTH * strength * (slack**2).sum()


@pytest.mark.parametrize("dimension", [5, 60, 300])  # rotated to principal axes, as it is, to the row space
@pytest.mark.parametrize("classes", [3, 5])
def test_squared_hinge_path_has_the_optimum_of_linear_svc(dimension, classes):
    features, labels = clusters(2, dimension=dimension, classes=classes)
    train = standardise(features).train
    for found in squared_hinge_path(train, labels.train, STRENGTHS):
        # a large intercept_scaling all but frees scikit-learn's intercept of its penalty
        theirs = LinearSVC(C=C_PER_STRENGTH * found.strength, dual=False, tol=1e-9, intercept_scaling=300,
                           max_iter=20_000).fit(train, labels.train)
        ours = squared_hinge(found.weights, found.offsets, train, labels.train, found.strength)
        best = squared_hinge(theirs.coef_, theirs.intercept_, train, labels.train, found.strength)
        assert ours == pytest.approx(best, rel=1e-4)
        np.testing.assert_allclose(found.weights, theirs.coef_, atol=1e-2 * np.abs(theirs.coef_).max())


@PATHS
@pytest.mark.parametrize("dimension", [8, 200])
def test_rotation_and_shift_change_no_score(path, dimension):
    features, labels = clusters(3, dimension=dimension)
    turned = standardise(mapped(features, 3 * rotation(0, dimension)))
    features = standardise(features)
    for a, b in zip(path(features.train, labels.train, STRENGTHS),
                    path(turned.train, labels.train, STRENGTHS), strict=True):
        expected = scores(a, features.test)
        np.testing.assert_allclose(scores(b, turned.test), expected, atol=2e-2 * np.abs(expected).max())


@PATHS
def test_strengths_ascend_and_fit_ever_closer(path):
    features, labels = clusters(4)
    found = list(path(standardise(features).train, labels.train, STRENGTHS[::-1]))
    assert [classifier.strength for classifier in found] == sorted(STRENGTHS)
    sizes = [np.linalg.norm(classifier.weights) for classifier in found]
    assert sizes == sorted(sizes)


@PATHS
def test_classes_keep_their_names(path):
    features, labels = clusters(5, noise=0.01, classes=2)
    named = np.array([4, 9])[labels.train]
    *_, last = path(standardise(features).train, named, STRENGTHS)
    np.testing.assert_array_equal(last.predict(standardise(features).train), named)


@PATHS
def test_too_few_steps_are_recorded_and_nothing_is_raised(path, monkeypatch):
    monkeypatch.setattr(linear_classifiers, "MOST_STEPS", 1)
    features, labels = clusters(6)
    assert not any(found.converged for found in path(standardise(features).train, labels.train, [1.0]))


@PATHS
def test_one_class_is_refused(path):
    features, labels = clusters(7)
    with pytest.raises(ValueError, match=r"all 90 training labels are \[0\]; a probe needs 2 classes"):
        next(path(features.train, 0 * labels.train, STRENGTHS))
