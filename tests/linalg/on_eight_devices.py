"""What must hold of tall matrices spread over eight devices; `tests/linalg/test_spread.py` runs it where they are."""

from __future__ import annotations

from contextlib import suppress

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import tests.conftest  # noqa: F401 - strict arrays
from nfk.devices import DEVICES, local_mesh
from nfk.linalg import spread
from nfk.linalg.krylov import block_krylov, sample_rows
from nfk.linalg.orthonormal import product64
from nfk.linalg.rows import DenseRows
from nfk.linalg.spread import SpreadFactor
from tests.linalg.prescribed import SPECTRA, matrix, true_residuals
from tests.linalg.test_rows import Memory

N, P, BLOCK, RANK = 320, 500, 32, 16
"""p is no multiple of the devices: each has 63 rows, the last 4 of zeros"""


class ByExamples(DenseRows):
    """As scores come: each device has its own examples of a block."""

    def block(self, index):
        return jax.device_put(super().block(index), NamedSharding(local_mesh(), PartitionSpec(DEVICES)))


def lay_out_and_read_back():
    tall = np.random.default_rng(0).standard_normal((P, 5)).astype(np.float32)
    laid = spread.laid(tall)
    parts = spread.parts(laid)
    assert [part.shape for part in parts] == [(63, 5)] * 8
    assert [part.device for part in parts] == jax.local_devices()
    assert np.array_equal(spread.whole(laid, P), tall)
    assert not np.asarray(laid)[P:].any()
    whole = jnp.asarray(tall)
    np.testing.assert_allclose(product64(laid, laid), product64(whole, whole), rtol=0, atol=1e-12)
    factor = SpreadFactor(laid, P)
    for cut in (slice(3, 9), slice(60, 130), slice(490, 900), slice(9, 3), slice(None)):
        assert np.array_equal(factor[cut], tall[cut])


def draw_what_one_device_draws():
    drawn = spread.normal(jax.random.key(4), P, 7, np.float32)
    assert len(spread.parts(drawn)) == 8
    assert not np.asarray(drawn)[P:].any()
    assert np.array_equal(spread.whole(drawn, P), jax.random.normal(jax.random.key(4), (P, 7)))


def krylov(values, **more):
    return block_krylov(ByExamples(values, BLOCK), rank=RANK, key=jax.random.key(5), **more)


def check(found, values, kept):
    assert isinstance(found.right, SpreadFactor)
    assert found.right.shape == (P, kept)
    exact = np.linalg.svd(values.astype(np.float64), compute_uv=False)[:kept]
    error = np.abs(found.singular_values**2 - exact**2)
    assert np.all(error <= 1e-5 * exact**2 + np.finfo(np.float32).eps * exact[0] ** 2)
    assert found.orthogonality < 2e-6
    assert np.all(true_residuals(values, found) < 1e-5)
    right = np.asarray(found.right)
    assert np.all(right[np.argmax(np.abs(right), axis=0), np.arange(kept)] > 0)


def factor():
    values, deficient = (matrix(SPECTRA[name](120), N, P, 0) for name in ("slow decay", "rank deficient"))
    assert sample_rows(N, 2 * RANK, 6, BLOCK) == 2 * RANK  # Q_1 is learnt from some
    check(krylov(deficient, passes=3), deficient, 10)
    undisturbed, memory = krylov(values), Memory(die_after=17)  # in the second pass
    check(undisturbed, values, RANK)
    with suppress(KeyboardInterrupt):
        krylov(values, checkpoint=memory)
    assert memory.saves == memory.die_after
    memory.die_after = None
    resumed = krylov(values, checkpoint=memory)
    assert np.array_equal(resumed.left, undisturbed.left)
    assert np.array_equal(resumed.right, undisturbed.right)


if __name__ == "__main__":
    lay_out_and_read_back()
    draw_what_one_device_draws()
    factor()
