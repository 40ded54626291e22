"""The factors of shipped networks, briefly trained on real digits, against float64 gradients at n = 2,000."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from nfk.fisher import strategies
from nfk.linalg.rows import block_count
from tests.benchmarks.core import KEY, fisher_vectors
from tests.linalg.prescribed import true_residuals

N, K = 2000, 32


@pytest.fixture(scope="module", params=["dcgan-small", "lenet5"])
def case(request):
    """The float32 Fisher vectors, the float64 rows, and the leading eigenvalues of the latter's Gram matrix."""
    vectors = fisher_vectors(request.param, N, 250)  # trains the network, in float32
    with jax.enable_x64(True):
        exact = fisher_vectors(request.param, N, 250, np.float64)
        rows = np.concatenate([np.asarray(exact.block(index)) for index in range(block_count(exact))])
    return vectors, rows, np.linalg.eigvalsh(rows @ rows.T)[::-1][:K]


@pytest.fixture(scope="module", params=["stream", "gram"])
def factors(request, case):
    return strategies.decompose(case[0], request.param, rank=K, key=KEY, oversampling=16, passes=6)


def test_eigenvalues(case, factors):
    error = np.abs(factors.singular_values**2 / case[2] - 1)
    assert np.max(error[:16]) < 1e-6
    assert np.max(error) < 1e-4


def test_residuals_tell_the_truth(case, factors):
    """Of the float32 rows, whose decomposition they belong to."""
    vectors = case[0]
    rows = np.concatenate([np.asarray(vectors.block(index)) for index in range(block_count(vectors))])
    ratio = factors.residuals / true_residuals(rows, factors)
    assert np.all(ratio > 0.1)
    assert np.all(ratio < 10)


def test_estimated_errors_are_never_far_below_the_true_ones(case, factors):
    """Against float64 gradients. Above they may be, where rounding cancels: DCGAN's are by 30 in the median."""
    true = np.abs(factors.singular_values**2 / case[2] - 1)
    assert np.all(factors.errors > true / 10)
    assert np.median(factors.errors / true) < 100


def test_float64_gradients_leave_nothing(case):
    """Another algorithm than the oracle's, so that the two cannot be wrong alike."""
    with jax.enable_x64(True):
        name = "dcgan-small" if case[1].shape[1] < 20_000 else "lenet5"
        found = strategies.decompose(fisher_vectors(name, N, 250, np.float64), "gram", rank=K, key=KEY)
    assert np.max(np.abs(found.singular_values**2 / case[2] - 1)) < 1e-10
