"""What an embedder makes of images, one whose right factor does not fit the memory it is given included."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
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


def test_fisher_vectors_are_whitened_as_the_pipeline_did(tmp_path):
    """Older embedders know neither Kronecker factors nor unit rows."""
    made, older = Embedder.load(write(tmp_path / "new", kronecker=True)), Embedder.load(write(tmp_path / "old"))
    images = np.random.default_rng(0).random((9, *made.image_shape), np.float32)
    gradients = np.asarray(made.scores(images), np.float64)
    with jax.enable_x64(True):
        whitening = made.statistics.whitening(made.scores.index, damping=1e-3)
        turned = np.asarray(whitening(jnp.asarray(gradients)))
    plain = gradients * made.statistics.weight(1e-3)
    for embedder, rows in ((made, turned / np.linalg.norm(turned, axis=1, keepdims=True)), (older, plain)):
        expected = rows @ np.asarray(embedder.right, np.float64)
        for found in (embedder(images, block=4), embedder.at_once(images)):
            np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("kronecker", [False, True])
def test_it_is_read_by_parts_and_gives_the_same_vectors(tmp_path, kronecker):
    files = write(tmp_path, kronecker=kronecker)
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
