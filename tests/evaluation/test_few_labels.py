"""Draws of few labels: balanced, nested, and the same for every representation."""

from __future__ import annotations

import numpy as np
import pytest

from nfk.evaluation.features import Labels, standardise
from nfk.evaluation.few_labels import FewLabels, balanced_order, few_labels, paired_difference
from nfk.evaluation.linear_probe import logistic_probe
from tests.evaluation.problems import clusters, mapped, rotation

STRENGTHS = (1e-2, 1e-1, 1.0)


@pytest.mark.parametrize("count", [3, 10, 31, 90])
def test_draws_are_balanced_and_without_repeats(count):
    _, labels = clusters(0)
    rows = balanced_order(labels.train, count, seed=0, draw=0)
    sizes = np.bincount(labels.train[rows], minlength=3)
    assert len(set(rows.tolist())) == count
    assert sizes.max() - sizes.min() <= 1


def test_smaller_draws_are_nested_in_larger_ones():
    _, labels = clusters(0)
    small, large = (balanced_order(labels.train, count, seed=0, draw=2) for count in (7, 60))
    sizes = np.bincount(labels.train[large[:7]], minlength=3)
    assert sizes.max() - sizes.min() <= 1
    np.testing.assert_array_equal(small[:6], [row for row in large if row in set(small[:6].tolist())])


def test_draws_differ_from_one_another_and_repeat_by_seed():
    _, labels = clusters(0)
    orders = [balanced_order(labels.train, 30, seed=seed, draw=draw).tolist()
              for seed, draw in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert orders[0] == orders[3]
    assert len({tuple(order) for order in orders}) == 3


def test_every_representation_gets_the_same_draws():
    """A rotated copy scores the same on each draw, which independent draws would not."""
    features, labels = clusters(1, distance=1.0)
    copy = mapped(features, 5 * rotation(1, 12))
    ours, theirs = (few_labels(standardise(part), labels, [6, 30], draws=4, strengths=STRENGTHS, seed=3)
                    for part in (features, copy))
    assert ours == theirs
    assert len(set(ours[6].draws)) > 1


def test_all_labels_are_the_whole_probe():
    features, labels = clusters(2)
    features = standardise(features)
    found = few_labels(features, labels, [90], draws=2, strengths=STRENGTHS, seed=0)[90]
    whole = logistic_probe(features, labels, STRENGTHS).accuracy
    assert found.draws == pytest.approx((whole, whole), abs=1 / 60)


def test_more_labels_help_and_spread_is_over_draws():
    features, labels = clusters(3, distance=1.5)
    found = few_labels(standardise(features), labels, [3, 90], draws=6, strengths=STRENGTHS, seed=0)
    assert found[90].mean > found[3].mean + 0.05
    assert found[3].mean == pytest.approx(np.mean(found[3].draws))
    assert found[3].standard_deviation == pytest.approx(np.std(found[3].draws, ddof=1))


def test_the_test_labels_choose_no_strength():
    """Each prediction is right under one of the three renamings of the test labels: the accuracies sum to 1,
    unless the predictions were chosen to suit the labels.
    """
    features, labels = clusters(4, dimension=40, distance=2.0)
    features = standardise(mapped(features, np.diag([30.0] * 3 + [1.0] * 37)))
    draws = [few_labels(features, Labels(labels.train, labels.validation, (labels.test + shift) % 3), [15],
                        draws=5, strengths=(1e-4, 1e-2, 1.0, 1e2), seed=0)[15].draws for shift in range(3)]
    np.testing.assert_allclose(np.sum(draws, axis=0), 1, atol=1e-12)


def test_paired_difference_by_hand():
    a, b = FewLabels(0.8, 0.1, (0.7, 0.8, 0.9)), FewLabels(0.7, 0.1, (0.6, 0.75, 0.75))
    found = paired_difference(a, b)
    assert found.mean == pytest.approx(0.1)
    assert found.standard_error == pytest.approx(0.05 / np.sqrt(3))


def test_a_common_shift_has_no_error():
    a = FewLabels(0.8, 0.1, (0.75, 0.5, 0.25))
    b = FewLabels(0.7, 0.1, (0.5, 0.25, 0.0))
    assert paired_difference(a, b) == (0.25, 0.0)


def test_unequal_numbers_of_draws_cannot_be_paired():
    with pytest.raises(ValueError, match="2 draws against 3"):
        paired_difference(FewLabels(0, 0, (0.0, 0.0)), FewLabels(0, 0, (0.0, 0.0, 0.0)))


def test_too_few_labels_or_too_small_classes_are_refused():
    labels = np.array([0] * 10 + [1] * 10 + [2] * 4)
    with pytest.raises(ValueError, match=r"2 labels cannot be drawn: 2 is less than the 3 classes; choose another"):
        balanced_order(labels, 2, seed=0, draw=0)
    with pytest.raises(ValueError, match=r"15 labels .*: 15 takes 5 images of each class, class 2 has 4; "):
        balanced_order(labels, 15, seed=0, draw=0)
