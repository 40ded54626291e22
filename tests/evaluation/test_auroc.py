"""The area under the ROC curve on known cases, and its error against the spread of repeated draws."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from nfk.evaluation.auroc import auroc


def test_known_cases():
    assert auroc(np.arange(5.0), np.arange(5.0) + 9) == (1, 0)
    assert auroc(np.arange(5.0) + 9, np.arange(5.0)) == (0, 0)
    assert auroc(np.ones(4), np.ones(3)).value == 0.5  # ties count half
    # pairs (outlier above inlier): (2 > 1), (2 = 2), (2 < 3), (4 > all): 1 + 1/2 + 0 + 3 of 6
    found = auroc(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0]))
    assert found.value == pytest.approx(4.5 / 6)
    # outliers' shares 1/2 and 1: variance 1/8, over 2; inliers' 1, 3/4, 1/2: variance 1/16, over 3
    assert found.standard_error == pytest.approx(np.sqrt(1 / 16 + 1 / 48))


def test_the_error_is_the_spread_over_repeated_draws():
    rng = np.random.default_rng(0)
    found = [auroc(rng.normal(size=80), rng.normal(1, 1.5, size=50)) for _ in range(400)]
    spread = np.std([one.value for one in found], ddof=1)
    assert np.mean([one.standard_error for one in found]) == pytest.approx(spread, rel=0.1)
    scores = rng.normal(size=30)
    truth = np.repeat([0, 1], [20, 10])
    assert auroc(scores[:20], scores[20:]).value == pytest.approx(roc_auc_score(truth, scores))


def test_a_single_outlier_is_refused():
    with pytest.raises(ValueError, match="5 inliers and 1 outliers: the error wants at least 2 of each"):
        auroc(np.arange(5.0), np.arange(1.0))
