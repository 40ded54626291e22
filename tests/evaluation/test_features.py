"""Changes of coordinates: what they keep, and what they refuse."""

from __future__ import annotations

import jaxtyping
import numpy as np
import pytest

from nfk.evaluation.features import Features, concatenate, from_gram, pca, pool, standardise, truncate
from tests.evaluation.problems import clusters, mapped, rotation


def test_standardised_training_rows_have_mean_zero_and_root_mean_square_length_one():
    features, _ = clusters(0)
    result = standardise(mapped(features, 7 * np.eye(12)))
    np.testing.assert_allclose(result.train.mean(axis=0), 0, atol=1e-14)
    assert np.mean(np.sum(result.train**2, axis=1)) == pytest.approx(1)


def test_standardising_shifts_and_scales_every_split_alike():
    train = np.array([[1.0, 0.0], [3.0, 0.0]])
    result = standardise(Features("two", train, np.array([[2.0, 5.0]]), np.array([[0.0, -1.0]])))
    np.testing.assert_allclose(result.train, [[-1, 0], [1, 0]])
    np.testing.assert_allclose(result.validation, [[0, 5]])
    np.testing.assert_allclose(result.test, [[-2, -1]])


@pytest.mark.parametrize("seed", range(3))
def test_standardising_commutes_with_rotation_and_with_empty_coordinates(seed):
    features, _ = clusters(seed)
    matrix = np.concatenate([rotation(seed, 12), np.zeros((12, 5))], axis=1)
    np.testing.assert_allclose(standardise(mapped(features, matrix)).test,
                               mapped(standardise(features), matrix).test, atol=1e-12)


def test_standardising_refuses_rows_without_differences():
    rows = np.ones((4, 3))
    with pytest.raises(ValueError, match="flat: all 4 training rows are equal"):
        standardise(Features("flat", rows, rows, rows))


def test_features_refuse_splits_of_different_width(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside the tests
    with pytest.raises(ValueError, match=r"wide: test rows have \(4,\) numbers, train rows \(3,\)"):
        Features("wide", np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 4)))


def test_features_name_the_first_row_that_is_not_finite():
    rows = np.ones((5, 2))
    rows[[3, 4], 1] = np.nan
    with pytest.raises(ValueError, match="broken: validation row 3 is not finite; 2 of 5"):
        Features("broken", np.ones((5, 2)), rows, np.ones((5, 2)))


def test_pooling_averages_blocks():
    image = np.arange(2 * 8 * 8 * 3, dtype=np.float32).reshape(2, 8, 8, 3)
    expected = image.reshape(2, 4, 2, 4, 2, 3).mean(axis=(2, 4)).reshape(2, -1)
    np.testing.assert_allclose(pool(image, size=4), expected)


def test_pooling_overlaps_where_sides_do_not_divide():
    line = np.array([0.0, 1.0, 2.0, 3.0, 4.0]).reshape(1, 5, 1, 1)
    np.testing.assert_allclose(pool(line, size=2), [[1.0, 3.0]])  # means of 0 1 2 and of 2 3 4


def test_pooling_keeps_small_maps_and_constant_maps():
    small = np.random.default_rng(0).normal(size=(2, 3, 2, 4))
    np.testing.assert_array_equal(pool(small, size=4), small.reshape(2, -1))
    np.testing.assert_allclose(pool(np.full((1, 7, 5, 2), 3.0), size=3), 3.0)


def test_pooling_refuses_no_cells():
    with pytest.raises(ValueError, match="size=0"):
        pool(np.ones((1, 4, 4, 1)), size=0)


def test_concatenating_keeps_rows_together():
    features, _ = clusters(0)
    both = concatenate([features, mapped(features, 2 * np.eye(12))], name="both")
    np.testing.assert_array_equal(both.test, np.concatenate([features.test, 2 * features.test], axis=1))
    assert (both.name, both.dimension) == ("both", 24)


def test_concatenating_refuses_other_images_and_nothing():
    features, other = clusters(0)[0], clusters(0, train=60)[0]
    with pytest.raises(ValueError, match="all: the parts have other numbers of rows"):
        concatenate([features, Features("other", other.train, other.validation, other.test)], name="all")
    with pytest.raises(ValueError, match="all: nothing to concatenate"):
        concatenate([], name="all")


def test_principal_components_come_in_decreasing_order_from_the_training_rows():
    features, _ = clusters(1, train=200)
    result = pca(features, 5, name="pca-5")
    variances = np.var(result.train, axis=0)
    expected = np.linalg.svd(features.train - features.train.mean(axis=0), compute_uv=False)[:5] ** 2 / 200
    np.testing.assert_allclose(variances, expected)
    # the other splits are shifted by the *training* mean
    np.testing.assert_allclose(np.linalg.norm(pca(features, 12, name="all").test, axis=1),
                               np.linalg.norm(features.test - features.train.mean(axis=0), axis=1))


def test_fewer_principal_components_are_the_leading_ones():
    features, _ = clusters(2)
    np.testing.assert_allclose(truncate(pca(features, 8, name="pca-8"), 3, name="pca-3").test,
                               pca(features, 3, name="pca-3").test, atol=1e-10)


def test_randomised_principal_components_repeat():
    rng = np.random.default_rng(0)
    wide = Features("wide", *(rng.normal(size=(n, 1200)) for n in (600, 4, 4)))
    np.testing.assert_array_equal(pca(wide, 10, name="a").test, pca(wide, 10, name="b").test)


@pytest.mark.parametrize("dimension", [0, 13])
def test_impossible_numbers_of_coordinates_are_refused(dimension):
    features, _ = clusters(0)
    with pytest.raises(ValueError, match=r"at most min\(n, d\)=12"):
        pca(features, dimension, name="pca")
    with pytest.raises(ValueError, match=f"{dimension} leading coordinates of clusters, which has 12"):
        truncate(features, dimension, name="few")


@pytest.mark.parametrize("dimension", [6, 400])
def test_gram_features_have_the_inner_products_of_the_rows(dimension):
    features, _ = clusters(3, dimension=dimension)
    v = features.train
    copy = from_gram("copy", v @ v.T, features.validation @ v.T, features.test @ v.T)
    assert copy.dimension == min(dimension, len(v))
    np.testing.assert_allclose(copy.train @ copy.train.T, v @ v.T, atol=1e-10)
    np.testing.assert_allclose(copy.test @ copy.train.T, features.test @ v.T, atol=1e-10)


def test_gram_features_cut_the_round_off_of_float32():
    features, _ = clusters(4, dimension=20)
    gram = (features.train @ features.train.T).astype(np.float32)
    copy = from_gram("copy", gram, gram[:3], gram[:3])
    assert copy.dimension == 20
    np.testing.assert_allclose(copy.test, copy.train[:3], atol=1e-4)


def test_gram_features_refuse_what_is_no_gram_matrix():
    with pytest.raises(ValueError, match="v: not a Gram matrix: entries differ from their transposes by up to 2"):
        from_gram("v", np.array([[1.0, 2.0], [0.0, 1.0]]), np.ones((1, 2)), np.ones((1, 2)))
    with pytest.raises(ValueError, match="v: not a Gram matrix: its eigenvalues run from -1 to 1"):
        from_gram("v", np.diag([1.0, -1.0]), np.ones((1, 2)), np.ones((1, 2)))
    with pytest.raises(ValueError, match="nor all zero"):
        from_gram("v", np.zeros((2, 2)), np.ones((1, 2)), np.ones((1, 2)))
