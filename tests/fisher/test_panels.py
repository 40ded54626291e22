"""`panels` on Fisher vectors: a right factor above the budget, its choice, its memory, and the embeddings by it."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest

from nfk import NeuralFisherKernel, store
from nfk.fisher import strategies
from nfk.fisher.embedding import embed, held_or_read
from nfk.fisher.scores import Scores
from nfk.fisher.statistics import fisher_statistics
from nfk.fisher.strategies import Machine, MemoryBudgetError
from nfk.fisher.vectors import FisherVectors
from nfk.linalg.panels import panel_svd
from nfk.linalg.rows import DenseRows
from nfk.linalg.tall import FiledFactor, FiledRows
from tests.fisher.networks import images, log_density, weights

N, RANK, BLOCK = 40, 16, 1
P = 368


@pytest.fixture(scope="module")
def vectors() -> FisherVectors:
    scores = Scores(log_density, weights(0))
    return FisherVectors(scores, images(N, 1), fisher_statistics(scores, images(80, seed=9), block=16), damping=1e-2,
                         block_rows=BLOCK)


def tiny(rows_of_w: int) -> int:
    """Bytes for a block, K, and so many rows of W; W has 368."""
    return 4 * BLOCK * P * 4 + max(3 * 8 * N**2, rows_of_w * RANK * 4)


def test_in_a_tiny_budget_w_takes_several_panels_and_is_the_same(vectors):
    options = {"rank": RANK, "key": jax.random.key(3)}
    memory = tiny(0)
    cut = strategies.panel_cut(vectors.shape, rank=RANK, block_rows=BLOCK, memory_bytes=memory - 3 * 8 * N**2 + 6400)
    assert -(-P // cut.panel_rows) == 4  # 100 rows of 64 bytes each
    whole = strategies.decompose(vectors, "explicit", **options)
    parts = strategies.decompose(vectors, "panels", memory_bytes=memory - 3 * 8 * N**2 + 6400, **options)
    assert isinstance(parts.right, FiledFactor)
    assert parts.singular_values == pytest.approx(whole.singular_values, rel=1e-6)
    assert parts.left == pytest.approx(whole.left, abs=2e-5)
    assert np.asarray(parts.right) == pytest.approx(np.asarray(whole.right), abs=2e-5)
    assert parts.errors == pytest.approx(whole.errors, rel=0.5)
    by_whole = embed(vectors, whole.right)
    assert embed(vectors, parts.right, memory_bytes=memory) == pytest.approx(
        by_whole, abs=1e-5 * whole.singular_values[0])


def test_sampled_rows_in_a_file_are_those_in_memory(vectors):
    held, which = vectors.sample64(20)
    filed, same = vectors.sample64(20, at_once=1)
    assert isinstance(filed, FiledRows)
    assert not isinstance(held, FiledRows)
    assert same.tolist() == which.tolist()
    assert filed.shape == held.shape
    assert filed[:, 3:200] == pytest.approx(held[:, 3:200], rel=1e-9, abs=1e-11)


def costs(n, p, rank, memory, block_rows=8):
    return strategies.plans((n, p), Machine(1e-2, 1e11, 4e10), rank=rank, oversampling=16, passes=6,
                            block_rows=block_rows, memory_bytes=memory)


class TestChoice:
    def test_forty_million_parameters_of_rank_256_in_16_gib(self):
        memory = 16 * 2**30
        found = strategies.choose(costs(2000, 40_000_000, 256, memory), "auto", memory)
        assert found.strategy == "panels"
        assert found.bytes <= memory
        resident, panels = 72, 4  # of 160 MB, and of 11 GB in all, beside 5 GB for a block
        assert found.gradient_passes == pytest.approx(2000 / (2 * resident) + 1.5 + panels)

    def test_not_where_the_whole_factor_fits_and_is_as_quick(self):
        for n, p, memory in ((500, 50_000, 2**32), (300, 10**6, 2**31), (2000, 10**6, 2**34)):
            assert strategies.choose(costs(n, p, 64, memory), "auto", memory).strategy != "panels"

    def test_its_bytes_hold_the_rows_for_the_gram_matrix_then_a_panel(self):
        memory = 2 * 2**30
        cut = strategies.panel_cut((256, 10_000_000), rank=64, block_rows=8, memory_bytes=memory)
        assert not cut.kept
        assert cut.resident_rows == 16
        assert -(-10_000_000 // cut.panel_rows) == 3
        assert cut.panel_rows * 64 * 4 + 4 * 8 * 10_000_000 * 4 <= cut.held_bytes <= memory

    def test_few_rows_are_kept_and_computed_once(self):
        memory = 2**30
        plan = next(plan for plan in costs(64, 10**6, 64, memory) if plan.strategy == "panels")
        assert plan.gradient_passes == 1
        assert plan.bytes <= memory

    def test_more_panels_than_64_are_refused_with_the_bytes(self):
        with pytest.raises(MemoryBudgetError, match=r"svd\.strategy=panels needs 2\.\d\d GiB, above svd\.memory_gib"):
            strategies.choose(costs(64, 10_000_000, 64, 2**30, block_rows=16), "panels", 2**30)


def test_the_probe_multiplies_by_no_more_of_a_basis_than_its_rate_takes(vectors, monkeypatch):
    asked = []
    made = strategies.fused_pass
    monkeypatch.setattr(strategies, "_PROBED", 640)
    monkeypatch.setattr(strategies, "fused_pass", lambda rows, basis: asked.append(basis.shape) or made(rows, basis))
    assert strategies.probe_machine(vectors, 16).flops > 0
    assert set(asked) == {(40, 16)}


def test_a_factor_is_held_where_it_fits_twice():
    right = np.ones((10, 4), np.float32)
    assert isinstance(held_or_read(right, 320), jax.Array)
    assert held_or_read(right, 319) is right


def test_the_estimator_keeps_saves_and_loads_such_a_factor(tmp_path):
    options = {"rank": 6, "block": 8, "damping": 1e-2}
    whole = NeuralFisherKernel(log_density, weights(0), strategy="explicit", **options).fit(images(40, 1))
    parts = NeuralFisherKernel(log_density, weights(0), strategy="panels", **options).fit(images(40, 1))
    assert parts.strategy_ == "panels"
    assert isinstance(parts.right_, jax.Array)  # it fits: as after any other strategy
    assert parts.right_[100:200] == pytest.approx(np.asarray(whole.right_)[100:200], abs=2e-5)
    others = images(9, 5)
    expected = whole.transform(others)
    assert parts.transform(others) == pytest.approx(expected, abs=1e-5 * whole.singular_values_[0])
    parts.save(tmp_path / "factors.zarr")
    loaded = NeuralFisherKernel.load(tmp_path / "factors.zarr", log_density, weights(0), memory_gib=1e-6, block=8)
    assert not isinstance(loaded.right_, np.ndarray | jax.Array)  # Zarr's own, read when it is used
    assert np.array_equal(loaded.right_[:], parts.right_)
    for each in (loaded, copy.deepcopy(loaded)):
        assert each.transform(others) == pytest.approx(expected, abs=1e-5 * whole.singular_values_[0])
    NeuralFisherKernel(log_density, weights(0), strategy="panels", **options).fit(images(40, 2)).save(
        tmp_path / "factors.zarr")
    with pytest.raises(store.StoreError, match="load it again"):
        loaded.transform(others)


def test_a_factor_in_a_file_of_this_process_is_not_copied():
    right = panel_svd(DenseRows(np.eye(20, dtype=np.float32), 4), rank=2, resident_rows=8, panel_rows=10).right
    for how in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="save what it holds"):
            how(right._image._file)
    with pytest.raises(TypeError):
        copy.deepcopy(right)


def test_whole_shards_are_written_one_at_a_time(tmp_path):
    asked = []

    class Rows:
        shape, dtype = (3 << 19, 16), np.dtype(np.float32)

        def __getitem__(self, rows):
            asked.append((rows.start, rows.stop))
            return np.repeat(np.arange(rows.start, rows.stop, dtype=np.float32)[:, None], 16, axis=1)

    with store.write(tmp_path / "w.zarr", inputs={}) as writer:
        writer.put_by_shards("right", Rows())
    assert asked == [(0, 1 << 20), (1 << 20, 3 << 19)]
    found = store.read(tmp_path / "w.zarr")["right"]
    assert found[1_500_000:1_500_002, 3].tolist() == [1_500_000, 1_500_001]


MEASURED = """
import json
import jax, jax.numpy as jnp, numpy as np
from nfk import store
from nfk.fisher import strategies
from nfk.fisher.embedding import embed, held_or_read
from nfk.fisher.scores import Scores
from nfk.fisher.statistics import fisher_statistics
from nfk.fisher.vectors import FisherVectors
from nfk.memory import peak_bytes

WIDTH, RANK, N, MEMORY = 1400, 64, 64, 192 << 20
rng = np.random.default_rng(0)
params = [jnp.asarray(rng.standard_normal(shape) / np.sqrt(shape[0]), jnp.float32)
          for shape in ((64, WIDTH), (WIDTH, WIDTH), (WIDTH, 3))]

def log_density(params, x, key):
    hidden = x
    for kernel in params[:-1]:
        hidden = jnp.tanh(hidden @ kernel)
    return jax.nn.logsumexp(hidden @ params[-1])

scores = Scores(log_density, params)
x = rng.standard_normal((N, 64)).astype(np.float32)
statistics = fisher_statistics(scores, x[:16], block=2)
vectors = FisherVectors(scores, x, statistics, block_rows=2)
jax.block_until_ready(vectors.block(0))
small, _ = vectors.sample64(1)  # float64 has a network and whitening of its own
del small
before = peak_bytes()
plan = strategies.plan(vectors, "auto", rank=RANK, oversampling=16, passes=6, memory_bytes=MEMORY).strategy
factors = strategies.decompose(vectors, plan, rank=RANK, key=scores.key, memory_bytes=MEMORY)
with store.write("w.zarr", inputs={}) as writer:
    writer.put_by_shards("right", factors.right)
orthogonality = factors.orthogonality
fitted = peak_bytes()
right = held_or_read(store.read("w.zarr")["right"], MEMORY)
few = FisherVectors(scores, x[:16], statistics, block_rows=2)
found = embed(few, right, memory_bytes=MEMORY)
error = np.max(np.abs(found - factors.left[:16] * factors.singular_values[None, :].astype(np.float32)))
print(json.dumps({"plan": plan, "fit": fitted - before, "embed": peak_bytes() - before, "budget": MEMORY,
                  "right": 4 * scores.size * RANK, "panels": factors.passes, "orthogonality": orthogonality,
                  "error": float(error / factors.singular_values[0])}))
"""


@pytest.mark.slow
def test_peak_memory_stays_below_the_whole_factor(tmp_path):
    done = subprocess.run([sys.executable, "-c", MEASURED], cwd=tmp_path, text=True, capture_output=True, timeout=900,
                          env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["plan"] == "panels"
    assert found["right"] > 2.5 * found["budget"]
    assert found["right"] / 10 < found["fit"] <= found["embed"] < found["right"]
    assert found["error"] < 1e-5
    assert found["orthogonality"] < 1e-4
