"""Leading eigenpairs against all of them, on either side of every rule."""

from __future__ import annotations

import numpy as np
import pytest

from nfk.linalg.eigen import dense, leading_eigenpairs, mirror


def symmetric(spectrum: np.ndarray) -> np.ndarray:
    vectors = np.linalg.qr(np.random.default_rng(0).standard_normal((len(spectrum), len(spectrum))))[0]
    return (vectors * spectrum) @ vectors.T


@pytest.mark.parametrize("size, rank, by_lapack", [(300, 5, True), (1200, 5, False), (1200, 200, True)])
def test_pairs(size, rank, by_lapack):
    assert dense(size, rank) is by_lapack
    spectrum = (1 + np.arange(size)) ** -0.7
    spectrum[2:4] = spectrum[2]  # a tie
    matrix = symmetric(spectrum)
    squares, vectors = leading_eigenpairs(matrix, rank)
    assert squares == pytest.approx(spectrum[:rank], rel=1e-12)
    assert matrix @ vectors == pytest.approx(vectors * squares, abs=1e-12)
    assert vectors.T @ vectors == pytest.approx(np.eye(rank), abs=1e-12)


def test_equal_matrices_give_equal_bits():
    matrix = symmetric((1 + np.arange(1200)) ** -0.7)
    once, again = leading_eigenpairs(matrix, 4), leading_eigenpairs(matrix, 4)
    assert np.array_equal(once[1], again[1])


def test_a_zero_matrix_has_zero_eigenvalues():
    assert np.array_equal(leading_eigenpairs(np.zeros((1200, 1200)), 3)[0], np.zeros(3))


def test_large_matrices_are_not_left_to_lapack():
    assert not dense(16_871, 128)
    assert not dense(60_000, 1000)
    assert dense(5000, 2000)


@pytest.mark.parametrize("rows", [1, 3, 7, 64])
def test_mirror(rows):
    whole = symmetric(np.arange(7.0))
    lower = np.asfortranarray(np.tril(whole))
    mirror(lower, rows)
    assert np.array_equal(lower, np.tril(whole) + np.tril(whole, -1).T)
