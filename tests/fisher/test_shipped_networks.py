"""The factors of shipped networks, briefly trained on real digits, against float64 gradients at n = 1,000.

Where an image puts a unit of the network within round-off of its kink, float32 and float64 see different gradients, and
which images those are depends on the weights: they are passed over, and must be few.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import jax
import numpy as np
import pytest

from nfk.fisher import strategies
from nfk.fisher.vectors import FisherVectors
from nfk.linalg.factors import Factors
from tests.benchmarks import networks
from tests.benchmarks.core import KEY, in_float64, off_kinks, whole
from tests.linalg.prescribed import true_residuals

N, K = 1000, 32
NAMES = ("dcgan-small", "lenet5")


@pytest.fixture(scope="module", autouse=True)
def an_epoch():
    """The benchmarks train for two or three; for round-off one does."""
    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            patch.setitem(networks._CONFIGS, name, networks._CONFIGS[name].model_copy(update={"epochs": 1}))
        networks.network.cache_clear()
        yield
    for kept in (networks.network, made, decomposed):
        kept.cache_clear()


class Case(NamedTuple):
    vectors: FisherVectors
    """of float32 gradients"""
    exact: np.ndarray
    """the leading eigenvalues of the Gram matrix of the float64 rows"""
    passed: int
    """images passed over"""


@cache  # pytest would make a fixture of parameters more than once
def made(name: str) -> Case:
    vectors, rows, passed = off_kinks(name, N, 250)
    return Case(vectors, np.linalg.eigvalsh(rows @ rows.T)[::-1][:K], passed)


@cache
def decomposed(name: str, strategy: str) -> Factors:
    return strategies.decompose(made(name).vectors, strategy, rank=K, key=KEY, oversampling=16, passes=6)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def case(name):
    return made(name)


@pytest.fixture(params=["stream", "gram"])
def factors(request, name):
    return decomposed(name, request.param)


def test_few_images_lie_at_a_kink(case):
    assert case.passed <= N // 100


def test_eigenvalues(case, factors):
    error = np.abs(factors.singular_values**2 / case.exact - 1)
    assert np.max(error[:16]) < 1e-6
    assert np.max(error) < 1e-4


def test_residuals_tell_the_truth(case, factors):
    """Of the float32 rows, whose decomposition they belong to."""
    ratio = factors.residuals / true_residuals(whole(case.vectors), factors)
    assert np.all(ratio > 0.1)
    assert np.all(ratio < 10)


def test_estimated_errors_tell_the_truth(case, factors):
    """Never far below the true ones; above they may be, where rounding happens to cancel."""
    true = np.abs(factors.singular_values**2 / case.exact - 1)
    assert np.all(factors.errors > true / 10)
    assert np.median(factors.errors / true) < 10


def test_float64_gradients_leave_nothing(case):
    """Another algorithm than the oracle's, so that the two cannot be wrong alike."""
    with jax.enable_x64(True):
        found = strategies.decompose(in_float64(case.vectors), "gram", rank=K, key=KEY)
    assert np.max(np.abs(found.singular_values**2 / case.exact - 1)) < 1e-10
