"""The factors of shipped networks, briefly trained on real digits, against float64 gradients at n = 2,000.

Where an image puts a unit of the network within round-off of its kink, float32 and float64 see different gradients, and
which images those are depends on the weights: they are passed over, and must be few.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest

from nfk.fisher import strategies
from tests.benchmarks.core import KEY, in_float64, off_kinks, whole
from tests.linalg.prescribed import true_residuals

N, K = 2000, 32


@pytest.fixture(scope="module", params=["dcgan-small", "lenet5"])
def case(request):
    """The float32 Fisher vectors, the leading eigenvalues of the Gram matrix of the float64 rows, and how many images
    were passed over."""
    vectors, rows, passed = off_kinks(request.param, N, 250)
    return vectors, np.linalg.eigvalsh(rows @ rows.T)[::-1][:K], passed


@pytest.fixture(scope="module", params=["stream", "gram"])
def factors(request, case):
    return strategies.decompose(case[0], request.param, rank=K, key=KEY, oversampling=16, passes=6)


def test_few_images_lie_at_a_kink(case):
    assert case[2] <= N // 100


def test_eigenvalues(case, factors):
    error = np.abs(factors.singular_values**2 / case[1] - 1)
    assert np.max(error[:16]) < 1e-6
    assert np.max(error) < 1e-4


def test_residuals_tell_the_truth(case, factors):
    """Of the float32 rows, whose decomposition they belong to."""
    ratio = factors.residuals / true_residuals(whole(case[0]), factors)
    assert np.all(ratio > 0.1)
    assert np.all(ratio < 10)


def test_estimated_errors_tell_the_truth(case, factors):
    """Never far below the true ones; above they may be, where rounding happens to cancel."""
    true = np.abs(factors.singular_values**2 / case[1] - 1)
    assert np.all(factors.errors > true / 10)
    assert np.median(factors.errors / true) < 10


def test_float64_gradients_leave_nothing(case):
    """Another algorithm than the oracle's, so that the two cannot be wrong alike."""
    with jax.enable_x64(True):
        found = strategies.decompose(in_float64(case[0]), "gram", rank=K, key=KEY)
    assert np.max(np.abs(found.singular_values**2 / case[1] - 1)) < 1e-10
