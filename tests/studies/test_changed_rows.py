"""Each change of the Fisher vectors against its formula."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from nfk.fisher.parameters import Parameter
from nfk.fisher.statistics import FisherStatistics
from nfk.fisher.whitening import unit_rows
from nfk.linalg.rows import DenseRows
from nfk.studies import changed_rows
from nfk.studies.changed_rows import ChangedRows, kronecker_whitening, one_after_another

INDEX = (Parameter("dense/bias", (3,), 0), Parameter("dense/kernel", (2, 2, 3), 3))
"""A bias of 3 numbers and a kernel seen as 4 x 3."""


def rows(count: int = 7) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 15)).astype(np.float32)


def test_element_wise_changes_are_their_formulas():
    given = rows()
    given[2] = 0
    lengths = np.sqrt((given.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    lengths[2] = 1
    np.testing.assert_allclose(unit_rows(jnp.asarray(given)), given / lengths, rtol=1e-6)
    np.testing.assert_allclose(changed_rows.signed_square_root(jnp.asarray(given)),
                               np.sign(given) * np.abs(given) ** 0.5, rtol=1e-6)
    rounded = np.asarray(changed_rows.in_bfloat16(jnp.asarray(given)))
    assert not np.array_equal(rounded, given)
    np.testing.assert_allclose(rounded, given, rtol=2.0**-8)


def test_each_layer_s_part_of_each_row_has_length_one():
    found = np.asarray(changed_rows.unit_layers(INDEX)(jnp.asarray(rows())))
    given = rows()
    for part in (slice(0, 3), slice(3, 15)):
        np.testing.assert_allclose(found[:, part], given[:, part] / np.linalg.norm(given[:, part], axis=1)[:, None],
                                   rtol=1e-5)


def test_one_weight_a_layer_gives_every_layer_mean_square_one():
    """On the samples that the statistics are of; an array whose score never moves gets weight 0."""
    samples = rows(50) * np.repeat([10, 0.1], [3, 12]).astype(np.float32)
    samples[:, :3] = 4
    mean, diagonal = samples.mean(axis=0, dtype=np.float64), samples.var(axis=0, dtype=np.float64)
    weight = changed_rows.layer_weights(FisherStatistics(mean, diagonal, 50), INDEX)
    found = np.asarray(changed_rows.centred_and_weighted(mean, weight)(jnp.asarray(samples)), np.float64)
    assert (weight[:3] == 0).all() and len(set(weight[3:])) == 1
    assert (found[:, 3:] ** 2).mean() == pytest.approx(1, rel=1e-5)


def test_a_layer_without_gradients_stays_zero():
    given = np.concatenate([rows()[:, :3], np.zeros((7, 12), np.float32)], axis=1)
    found = np.asarray(kronecker_whitening(DenseRows(given), INDEX, 1e-3)(jnp.asarray(given)))
    assert (found[:, 3:] == 0).all() and np.isfinite(found).all() and found[:, :3].any()


def test_changed_rows_are_changed_in_order_block_by_block():
    given = rows()
    both = ChangedRows(DenseRows(given, 4), one_after_another(changed_rows.signed_square_root, unit_rows))
    rooted = np.sign(given) * np.sqrt(np.abs(given))
    found = np.concatenate([np.asarray(both.block(index)) for index in range(2)])
    np.testing.assert_allclose(found, rooted / np.linalg.norm(rooted, axis=1)[:, None], rtol=1e-5)
    assert both.shape == (7, 15)
