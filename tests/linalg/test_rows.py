"""Passes over blocks of rows: what they compute, and that an interrupted one ends on the same bits."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfk.checkpoint import RowFile
from nfk.linalg.rows import DenseRows, StoredRows, adjoint_pass, block_bounds, block_count, fused_pass


class Memory:
    """A Checkpoint that saves at every chance, and can fail like a kill after so many saves."""

    def __init__(self, die_after: int | None = None) -> None:
        self.kept, self.files, self.saves, self.die_after = {}, {}, 0, die_after

    def due(self) -> bool:
        return True

    def save(self, name, arrays):
        self.kept[name] = {key: np.array(value) for key, value in arrays.items()}
        self.saves += 1
        if self.saves == self.die_after:
            raise KeyboardInterrupt

    def load(self, name):
        return self.kept.get(name)

    def rows(self, name, columns, dtype):
        return self.files.setdefault(name, RowFile(columns, dtype))


def example(n: int, p: int, r: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, p)).astype(np.float32), rng.standard_normal((p, r)).astype(np.float32)


@given(n=st.integers(1, 40), p=st.integers(1, 30), r=st.integers(1, 8), block=st.integers(1, 50))
@settings(max_examples=25, deadline=None)
def test_fused_pass_gives_both_products_and_the_norm(n, p, r, block):
    values, basis = example(n, p, r)
    done = fused_pass(DenseRows(values, block), jnp.asarray(basis))
    left = values.astype(np.float64) @ basis
    assert done.left.read(0, n) == pytest.approx(left, abs=1e-4)
    assert np.asarray(done.right) == pytest.approx(values.T @ left, abs=1e-3)
    assert done.squared_norm == pytest.approx(np.sum(values.astype(np.float64) ** 2), rel=1e-5)


def test_adjoint_law():
    values, basis = example(70, 40, 3)
    rows = DenseRows(values, 16)
    other = np.random.default_rng(1).standard_normal((70, 3)).astype(np.float32)
    left = fused_pass(rows, jnp.asarray(basis)).left.read(0, len(values))
    assert np.sum(left * other) == pytest.approx(np.sum(basis * np.asarray(adjoint_pass(rows, other))), rel=1e-4)


@pytest.mark.parametrize("killed_after", [1, 2, 3, 4])
def test_an_interrupted_pass_ends_on_the_same_bits(killed_after):
    values, basis = example(70, 40, 5)
    rows = DenseRows(values, 16)
    undisturbed = fused_pass(rows, jnp.asarray(basis))
    memory = Memory(die_after=killed_after)
    with pytest.raises(KeyboardInterrupt):
        fused_pass(rows, jnp.asarray(basis), checkpoint=memory)
    asked = []
    block = rows.block
    rows.block = lambda index: asked.append(index) or block(index)
    memory.die_after = None
    resumed = fused_pass(rows, jnp.asarray(basis), checkpoint=memory)
    assert asked == list(range(killed_after, 5))
    assert np.array_equal(resumed.left.read(0, 70), undisturbed.left.read(0, 70))
    assert np.array_equal(resumed.right, undisturbed.right)
    assert resumed.squared_norm == undisturbed.squared_norm


def test_rows_damaged_since_the_checkpoint_are_made_again():
    values, basis = example(70, 40, 5)
    rows, memory = DenseRows(values, 16), Memory(die_after=3)
    with pytest.raises(KeyboardInterrupt):
        fused_pass(rows, jnp.asarray(basis), checkpoint=memory)
    memory.files["pass"].write(20, np.full((1, 5), np.inf, np.float32))
    memory.die_after = None
    resumed = fused_pass(rows, jnp.asarray(basis), checkpoint=memory)
    assert np.array_equal(resumed.left.read(0, 70), fused_pass(rows, jnp.asarray(basis)).left.read(0, 70))


def test_a_row_file_outlives_its_object_where_it_has_a_path(tmp_path):
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    file = RowFile(3, np.float32, tmp_path / "scratch" / "rows")
    file.write(0, values[:2])
    file.write(2, values[2:])
    file.sync()
    again = RowFile(3, np.float32, tmp_path / "scratch" / "rows")
    assert np.array_equal(again.read(1, 4), values[1:])
    assert again.checksum(4) == file.checksum(4) != file.checksum(3)


def test_stored_rows_are_computed_once():
    values, _ = example(20, 6, 1)
    rows, asked = DenseRows(values, 8), []
    block = rows.block
    rows.block = lambda index: asked.append(index) or block(index)
    stored = StoredRows(rows)
    for _ in range(2):
        seen = np.concatenate([stored.block(index) for index in range(block_count(stored))])
        assert np.array_equal(seen, values)
    assert asked == [0, 1, 2]


def test_blocks_cover_the_rows():
    rows = DenseRows(np.zeros((20, 2), np.float32), 8)
    assert [block_bounds(rows, index) for index in range(block_count(rows))] == [(0, 8), (8, 16), (16, 20)]
