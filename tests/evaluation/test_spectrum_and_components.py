"""Explained variance of prescribed spectra; the images at the ends of components."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from nfk.evaluation.components import extremes
from nfk.evaluation.spectrum import component_counts, explained_variance
from tests.evaluation.problems import rotation


@pytest.mark.parametrize("seed", range(3))
def test_a_prescribed_spectrum_is_found(seed):
    eigenvalues = np.array([5.0, 3.0, 1.0, 1.0, 0.0, 0.0])
    basis = rotation(seed, 6)
    gram = basis @ np.diag(eigenvalues) @ basis.T
    np.testing.assert_allclose(explained_variance(gram), [0.5, 0.8, 0.9, 1, 1, 1], atol=1e-12)


def test_the_denominator_is_the_whole_matrix():
    v = np.random.default_rng(0).normal(size=(7, 30))
    singular = np.linalg.svd(v, compute_uv=False)
    np.testing.assert_allclose(explained_variance(v @ v.T), np.cumsum(singular**2) / np.sum(v**2))


def test_float32_round_off_leaves_shares_between_zero_and_one():
    v = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)
    shares = explained_variance(v @ v.T)
    assert np.all(np.diff(shares) >= 0)
    assert shares[2] == pytest.approx(1, abs=1e-5)
    assert shares[-1] == pytest.approx(1, abs=1e-12)


def test_a_zero_matrix_is_refused():
    with pytest.raises(ValueError, match="Gram matrix of 3 examples is zero"):
        explained_variance(np.zeros((3, 3)))


def test_components_shown_are_dense_on_a_logarithmic_axis_and_hold_the_round_numbers():
    counts = component_counts(1000)
    assert counts == sorted(set(counts))
    assert {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000} <= set(counts)
    assert max(b / a for a, b in pairwise(counts[4:])) <= 1.25
    assert component_counts(130)[-1] == 130
    assert component_counts(1) == [1]
    with pytest.raises(ValueError, match="available=0"):
        component_counts(0)


def test_extremes_are_the_ends_of_each_component():
    embedding = np.array([[0.0, 9.0], [3.0, -1.0], [-2.0, 4.0], [1.0, -7.0]])
    found = extremes(embedding, components=2, images=2)
    np.testing.assert_array_equal(found.largest, [[1, 3], [0, 2]])
    np.testing.assert_array_equal(found.smallest, [[2, 0], [3, 1]])


@pytest.mark.parametrize(("components", "images"), [(3, 2), (2, 5), (0, 1)])
def test_extremes_beyond_the_embedding_are_refused(components, images):
    with pytest.raises(ValueError, match=f"components={components}, images={images}: the embedding has 2 comp"):
        extremes(np.zeros((4, 2)), components=components, images=images)
