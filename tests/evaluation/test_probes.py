"""Linear and nearest-neighbour probes: known answers, and no look at the test labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from nfk.evaluation.accuracy import accuracy
from nfk.evaluation.features import Features, Labels, from_gram, standardise
from nfk.evaluation.knn import nearest, neighbour_vote
from nfk.evaluation.linear_classifiers import LinearClassifier
from nfk.evaluation.linear_probe import best_on_validation, logistic_probe, squared_hinge_probe
from tests.evaluation.problems import clusters, mapped

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
PROBES = pytest.mark.parametrize("probe", [logistic_probe, squared_hinge_probe])


def test_accuracy_has_the_binomial_error():
    predictions, labels = np.array([0, 1, 1, 0, 2]), np.array([0, 1, 1, 1, 2])
    found = accuracy(predictions, labels)
    assert found.value == pytest.approx(0.8)
    assert found.standard_error == pytest.approx(np.sqrt(0.8 * 0.2 / 5))


@PROBES
def test_separable_problem_is_solved_and_pure_noise_is_not(probe):
    features, labels = clusters(0, noise=0.01)
    features = standardise(features)
    assert probe(features, labels, STRENGTHS).accuracy == 1
    rng = np.random.default_rng(0)
    shuffled = Labels(*(rng.permutation(part) for part in (labels.train, labels.validation, labels.test)))
    chance = probe(features, shuffled, STRENGTHS)
    assert abs(chance.accuracy - 1 / 3) < 4 * chance.standard_error


@PROBES
def test_test_labels_have_no_say(probe):
    features, labels = clusters(1)
    features = standardise(features)
    honest = probe(features, labels, STRENGTHS)
    blind = probe(features, replace(labels, test=(labels.test + 1) % 3), STRENGTHS)
    assert blind.strength == honest.strength
    assert blind.validation_accuracy == honest.validation_accuracy
    np.testing.assert_array_equal(blind.predictions, honest.predictions)
    assert blind.accuracy != honest.accuracy


@PROBES
def test_the_strength_is_the_strongest_penalty_among_the_best_on_validation(probe):
    features, labels = clusters(2)
    features = standardise(features)
    alone = [probe(features, labels, [strength]).validation_accuracy for strength in STRENGTHS]
    found = probe(features, labels, STRENGTHS[::-1])
    assert found.validation_accuracy == pytest.approx(max(alone), abs=1 / 40)  # one validation image
    assert found.strength == STRENGTHS[int(np.argmax(alone))]


def test_a_path_ends_at_the_second_strength_below_the_best():
    labels, fitted = np.arange(10) % 2, []

    def path(right):
        """Classifiers that are right on so many of ten images."""
        for strength, count in enumerate(right):
            fitted.append(strength)
            column = np.where(np.arange(10) < count, labels, 1 - labels) * 2.0 - 1
            yield LinearClassifier(strength, np.array([0, 1]), np.array([-column, column]), np.zeros(2), True)

    best = best_on_validation(path([5, 7, 6, 8, 8, 7, 8, 6, 9]), np.eye(10), labels)
    assert (best.classifier.strength, best.validation_accuracy, best.alone) == (3, 0.8, False)
    assert best_on_validation(path([5, 7, 6]), np.eye(10), labels).alone
    assert fitted[:-3] == [0, 1, 2, 3, 4, 5, 6, 7]
    with pytest.raises(ValueError, match="no strength"):
        best_on_validation([], np.eye(10), labels)


@PROBES
def test_an_end_of_the_grid_is_flagged(probe):
    features, labels = clusters(3, dimension=40, distance=2.5)
    # three loud coordinates that say nothing: too strong a penalty follows them, too weak a one overfits
    features = standardise(mapped(features, np.diag([30.0] * 3 + [1.0] * 37)))
    inside, last, first = (probe(features, labels, grid) for grid in ([1e-4, 1.0, 1e4], [1e-4, 1.0], [1.0, 1e4]))
    assert (inside.strength, last.strength, first.strength) == (1.0, 1.0, 1.0)
    assert (inside.at_end, last.at_end, first.at_end) == (False, True, True)
    easy, labels = clusters(3, dimension=4, distance=50.0)
    assert not probe(easy, labels, [1e-3, 1.0, 1e3]).at_end, "all strengths are as good"


@PROBES
@pytest.mark.parametrize("seed", range(3))
def test_gram_features_are_probed_as_the_rows_themselves(probe, seed):
    """The representer theorem: 500 numbers a row, known by their inner products alone."""
    features, labels = clusters(seed, dimension=500)
    v = features.train
    copy = from_gram("copy", v @ v.T, features.validation @ v.T, features.test @ v.T)
    direct = probe(standardise(features), labels, STRENGTHS)
    through_gram = probe(standardise(copy), labels, STRENGTHS)
    assert through_gram.strength == direct.strength
    np.testing.assert_array_equal(through_gram.predictions, direct.predictions)
    assert 0.4 < direct.accuracy < 1  # neither solved nor chance: the comparison says something


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("neighbours", [1, 4, 9])
def test_votes_are_those_of_the_reference(metric, neighbours):
    features, labels = clusters(4)
    theirs = KNeighborsClassifier(neighbours, metric=metric, algorithm="brute").fit(features.train, labels.train)
    ours = neighbour_vote(features, labels, [neighbours])
    expected = {name: KNeighborsClassifier(neighbours, metric=name, algorithm="brute")
                .fit(features.train, labels.train).score(features.validation, labels.validation)
                for name in ("cosine", "euclidean")}
    assert ours.validation_accuracy == max(expected.values())
    if ours.metric == metric:
        assert ours.accuracy == theirs.score(features.test, labels.test)


def test_the_metric_is_chosen_on_validation():
    rng = np.random.default_rng(0)
    angles = np.array([0.0, 2.0])

    def rays(count):  # classes differ in direction, lengths vary a thousandfold
        label = np.arange(count) % 2
        angle = angles[label] + 0.2 * rng.normal(size=count)
        length = 10 ** rng.uniform(-1.5, 1.5, size=(count, 1))
        return length * np.stack([np.cos(angle), np.sin(angle)], axis=1), label

    def circles(count):  # classes differ in length alone
        label = np.arange(count) % 2
        angle = rng.uniform(0, 2 * np.pi, size=count)
        return (1 + 3 * label[:, None]) * np.stack([np.cos(angle), np.sin(angle)], axis=1), label

    for problem, metric in ((rays, "cosine"), (circles, "euclidean")):
        splits = [problem(count) for count in (40, 100, 100)]
        found = neighbour_vote(Features("plane", *(rows for rows, _ in splits)),
                               Labels(*(label for _, label in splits)), [1, 3])
        assert found.metric == metric
        assert found.accuracy > 0.97


def test_neighbours_do_not_see_the_test_labels():
    features, labels = clusters(5)
    honest = neighbour_vote(features, labels, [1, 5, 10])
    blind = neighbour_vote(features, replace(labels, test=(labels.test + 1) % 3), [1, 5, 10])
    assert blind[2:] == honest[2:]
    assert blind.accuracy != honest.accuracy


def test_nearest_comes_first():
    train = np.array([[0.0], [1.0], [3.0], [7.0]])
    np.testing.assert_array_equal(nearest(train, np.array([[2.9], [0.2]]), 3, "euclidean"), [[2, 1, 0], [0, 1, 2]])


def test_more_neighbours_than_images_are_refused():
    features, labels = clusters(6)
    with pytest.raises(ValueError, match=r"evaluate\.neighbours=91 exceeds 90 training images"):
        neighbour_vote(features, labels, [1, 91])
