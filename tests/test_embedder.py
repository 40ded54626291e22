"""An embedder whose right factor does not fit the memory it is given."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from nfk.embedder import Embedder
from nfk.store import StoreError
from tests.service.small_embedder import write


class Watched:
    """A right factor that remembers how many of its rows were read at once."""

    def __init__(self, right):
        self.shape, self.dtype, self._right, self.read = right.shape, right.dtype, right, []

    def __getitem__(self, rows):
        self.read.append(len(range(*rows.indices(self.shape[0]))))
        return self._right[rows]


def test_it_is_read_by_parts_and_gives_the_same_vectors(tmp_path):
    files = write(tmp_path)
    held = Embedder.load(files)
    p, k = held.right.shape
    apart = Embedder.load(files, memory_gib=1.9 * p * k * 4 / 2**30)
    assert isinstance(held.right, jax.Array)
    assert not isinstance(apart.right, jax.Array)
    apart = dataclasses.replace(apart, right=Watched(apart.right))
    images = np.random.default_rng(0).random((9, *held.image_shape), np.float32)
    expected = held(images)
    for found in (apart(images, block=4), apart.at_once(images), apart.at_once(images[:1])):
        np.testing.assert_allclose(found, expected[: len(found)], atol=1e-5 * np.abs(expected).max())
    assert max(apart.right.read) * k * 4 <= apart.memory_bytes // 16
    assert apart(images[:0]).shape == (0, k)


def test_one_replaced_meanwhile_is_not_mixed_with_the_other(tmp_path):
    apart = Embedder.load(write(tmp_path), memory_gib=1e-6)
    write(tmp_path, scaling="unit")
    with pytest.raises(StoreError, match="load it again"):
        apart.at_once(np.zeros((1, *apart.image_shape), np.float32))
