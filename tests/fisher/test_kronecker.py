"""Whitening by Kronecker factors and rows of unit length: against their definition in float64, in every strategy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfk import NeuralFisherKernel
from nfk.fisher import kronecker, strategies
from nfk.fisher.kronecker import inverse_roots, live, sides_size, sides_sum, whitened
from nfk.fisher.parameters import Parameter, parameter_index
from nfk.fisher.products import JacobianProducts
from nfk.fisher.scores import Scores
from nfk.fisher.statistics import FisherStatistics, fisher_statistics
from nfk.fisher.vectors import FisherVectors
from nfk.fisher.whitening import lengths, unit_rows
from nfk.linalg.rows import block_count
from tests.fisher.networks import images, log_density, weights
from tests.linalg.test_rows import Memory
from tests.thread_group import together

N, RANK, DAMPING = 90, 8, 0.1
INDEX = (Parameter("dense/bias", (3,), 0), Parameter("dense/kernel", (2, 2, 3), 3))
"""A bias of 3 numbers and a kernel seen as 4 x 3."""


def vectors(dtype=np.float32, unit_rows: bool = True, n: int = N) -> FisherVectors:
    scores = Scores(log_density, weights(0, dtype))
    found = fisher_statistics(scores, images(80, seed=9, dtype=dtype), kronecker=True, block=16)
    return FisherVectors(scores, images(n, 1, dtype), found, damping=DAMPING, unit_rows=unit_rows, block_rows=32)


def whole(rows) -> np.ndarray:
    return np.concatenate([np.asarray(rows.block(index)) for index in range(block_count(rows))])


def power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    values, basis = np.linalg.eigh(matrix)
    return basis * values**exponent @ basis.T


@pytest.fixture(scope="module")
def exact():
    """V in float64 from the definition, array by array and example by example, rows not yet of unit length."""
    with jax.enable_x64(True):
        params, key = weights(0, np.float64), jax.random.key(0)
        gradient = jax.grad(log_density)

        def leaves(x):
            return [np.asarray(leaf) for leaf in jax.tree.leaves(gradient(params, jnp.asarray(x), key))]

        samples, given = ([leaves(x) for x in images(count, seed, np.float64)] for count, seed in ((80, 9), (N, 1)))
    parts = []
    for leaf in range(len(samples[0])):
        matrices, rows = (np.stack([example[leaf] for example in one]) for one in (samples, given))
        last = matrices.shape[-1]
        mean = matrices.reshape(80, -1, last).mean(axis=0)
        matrices, rows = matrices.reshape(80, -1, last) - mean, rows.reshape(N, -1, last) - mean
        if not matrices.any():
            parts.append(np.zeros((N, mean.size)))
            continue
        left = sum(each @ each.T for each in matrices) / 80
        right = sum(each.T @ each for each in matrices) / 80
        size = np.trace(left)
        left, right = (side + DAMPING * np.trace(side) / len(side) * np.eye(len(side)) for side in (left, right))
        rows = size**0.5 * np.stack([power(left, -0.5) @ each @ power(right, -0.5) for each in rows])
        parts.append(rows.reshape(N, -1))
    return np.concatenate(parts, axis=1)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("unit_rows", [False, True])
def test_rows_follow_the_definition(exact, unit_rows):
    expected = unit(exact) if unit_rows else exact
    with jax.enable_x64(True):
        assert whole(vectors(np.float64, unit_rows)) == pytest.approx(expected, rel=1e-9, abs=1e-11)
    single = vectors(unit_rows=unit_rows)
    assert whole(single) == pytest.approx(expected, abs=1e-4 * np.abs(expected).max())
    rows, which = single.sample64(N)
    assert len(which) >= N - 8
    assert rows == pytest.approx(expected[which], rel=1e-4, abs=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("unit_rows", [False, True])
def test_products_without_rows_are_those_of_the_definition(exact, unit_rows):
    expected, rng = unit(exact) if unit_rows else exact, np.random.default_rng(0)
    tangents, cotangents = rng.standard_normal((exact.shape[1], 3)), rng.standard_normal((N, 3))
    with jax.enable_x64(True):
        products = JacobianProducts(vectors(np.float64, unit_rows))
        assert np.asarray(products.matmat(jnp.asarray(tangents))) == pytest.approx(
            expected @ tangents, rel=1e-8, abs=1e-9)
        assert np.asarray(products.rmatmat(jnp.asarray(cotangents))) == pytest.approx(
            expected.T @ cotangents, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("strategy", strategies.STRATEGIES)
def test_every_strategy_finds_the_modes(exact, strategy):
    truth = np.linalg.svd(unit(exact), compute_uv=False)[:RANK] ** 2
    found = strategies.decompose(vectors(), strategy, rank=RANK, key=jax.random.key(3), passes=8)
    assert found.singular_values**2 == pytest.approx(truth, rel=2e-4)
    assert found.squared_norm == pytest.approx(N, rel=1e-5)


def spread(size: int, seed: int) -> np.ndarray:
    """A covariance whose eigenvalues are 1 to 9."""
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]
    return basis * np.linspace(1, 9, size) @ basis.T


@pytest.mark.parametrize("largest, exactly", [(2048, True), (3, False)])
def test_a_covariance_that_is_a_kronecker_product_becomes_the_identity(monkeypatch, largest, exactly):
    """Gradients A^(1/2) E_ij B^(1/2), over all i and j, have just the covariance A ⊗ B / 12. With the longer side by
    its diagonal alone it is not whitened."""
    monkeypatch.setattr(kronecker, "LARGEST_SIDE", largest)
    a, b, bias = (power(spread(size, seed), 0.5) for size, seed in ((4, 1), (3, 2), (3, 3)))
    kernels = np.stack([a[:, [i]] @ b[[j], :] for i in range(4) for j in range(3)])
    biases = np.stack([bias[index % 3] for index in range(12)])
    given = jnp.asarray(np.concatenate([biases, kernels.reshape(12, 12)], axis=1), jnp.float32)
    sides = sides_sum(given, INDEX) / 12
    assert len(sides) == sides_size(INDEX) == (35 if exactly else 1 + 9 + 4 + 9)

    def made(damping):
        roots = tuple(tuple(jnp.asarray(side, jnp.float32) for side in pair)
                      for pair in inverse_roots(sides, INDEX, damping))
        return np.asarray(whitened(given, INDEX, roots), np.float64)

    kernel, whitened_bias = (made(0.0)[:, part].T @ made(0.0)[:, part] / 12 for part in (slice(3, 15), slice(0, 3)))
    assert whitened_bias == pytest.approx(np.eye(3), abs=1e-5)
    assert (np.abs(kernel - np.eye(12)).max() < 1e-5) == exactly
    assert np.linalg.norm(made(10.0)) < 0.5 * np.linalg.norm(made(0.0))


class TestStatistics:
    def found(self, **options) -> FisherStatistics:
        return fisher_statistics(Scores(log_density, weights(0)), images(50), kronecker=True, **options)

    @pytest.mark.parametrize("block", [1, 7, 50])
    def test_factors_do_not_depend_on_the_blocks(self, block):
        scores = Scores(log_density, weights(0))
        with jax.enable_x64(True):
            rows = np.asarray(Scores(log_density, weights(0, np.float64))(images(50).astype(np.float64)))
            exact = sides_sum(rows - rows.mean(axis=0), scores.index) / 50
        assert self.found(block=block).sides == pytest.approx(exact, rel=1e-5, abs=1e-7 * np.abs(exact).max())

    def test_resume_on_the_same_bits(self):
        memory = Memory(die_after=3)
        with pytest.raises(KeyboardInterrupt):
            self.found(block=8, checkpoint=memory)
        memory.die_after = None
        seen = []
        resumed = self.found(block=8, checkpoint=memory, progress=lambda done, total, what: seen.append(done))
        assert seen[0] > 8 and np.array_equal(resumed.sides, self.found(block=8).sides)

    def test_processes_that_share_the_samples_find_the_same(self):
        """Three of them, as threads that wait for each other at every sum."""
        results = together(3, lambda member: self.found(block=8, group=member))
        alone = self.found(block=8)
        for result in results:
            assert result.sides == pytest.approx(alone.sides, rel=1e-6, abs=1e-9)
            assert result.diagonal == pytest.approx(alone.diagonal, rel=1e-9)

    def test_without_kronecker_there_are_none(self):
        assert fisher_statistics(Scores(log_density, weights(0)), images(8)).sides is None


def test_what_is_live_by_hand():
    """Of a 3 x 3 array the second row never moved, nor one number between live ones; nor one of a bias."""
    index = parameter_index({"kernel": jnp.zeros((3, 3)), "last": jnp.zeros(2), "scalar": jnp.zeros(())})
    moved = np.array([1, 0, 2, 0, 0, 0, 3, 4, 5, 0, 6, 7.0])
    assert live(moved, index).tolist() == [1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 1, 1]


def test_a_dead_number_between_live_ones_is_whitened_as_they_are():
    scores = Scores(log_density, weights(0))
    found = fisher_statistics(scores, images(40), kronecker=True)
    dense = next(entry for entry in scores.index if entry.path == "dense/kernel")
    diagonal = found.diagonal.copy()
    assert diagonal[dense.offset + 7] > 0
    diagonal[dense.offset + 7] = 0
    rows, same = (whole(FisherVectors(scores, images(5, 1), each, damping=DAMPING))
                  for each in (found, found._replace(diagonal=diagonal)))
    assert np.array_equal(rows, same)
    assert rows[:, dense.offset + 7].all()


def test_a_dead_parameter_weighs_nothing_and_a_zero_row_stays_zero():
    """A row of the dense kernel whose input is 0 on the samples: where it is not on an image, nothing comes of it."""
    def moved(params, x, key):
        return log_density(params, x, key) + jnp.where(x.mean() > 2, 1e3, 0.0) * params["dense"]["kernel"][7].sum()

    scores, masked = Scores(moved, weights(0)), np.ones(368, bool)
    dense = next(entry for entry in scores.index if entry.path == "dense/kernel")
    masked[dense.offset + 7 * 5 : dense.offset + 8 * 5] = False

    def of_samples(params, x, key):  # input 7 does nothing there
        kernel = params["dense"]["kernel"]
        fixed = kernel.at[7].set(jax.lax.stop_gradient(kernel[7]))
        return moved({**params, "dense": {**params["dense"], "kernel": fixed}}, x, key)

    found = fisher_statistics(Scores(of_samples, weights(0)), images(40), kronecker=True)
    assert found.dead == 3 + 5
    far = images(3) + 3
    gradients = np.asarray(scores(far), np.float64)
    assert np.abs(gradients[:, ~masked]).min() > 900
    with jax.enable_x64(True):
        whitening = found.whitening(scores.index, damping=DAMPING)
        expected = np.asarray(whitened(jnp.asarray((gradients - found.mean_score) * masked), scores.index,
                                       whitening.roots))
    rows = whole(FisherVectors(scores, far, found, damping=DAMPING))
    assert rows == pytest.approx(expected, rel=1e-4, abs=1e-4 * np.abs(expected).max())
    assert np.linalg.norm(whole(FisherVectors(scores, far, found, damping=DAMPING, unit_rows=True)),
                          axis=1) == pytest.approx(1, rel=1e-5)
    at_mean = found._replace(mean_score=np.asarray(scores(far[:1]), np.float64)[0])
    assert not whole(FisherVectors(scores, far[:1], at_mean, damping=DAMPING, unit_rows=True)).any()


@pytest.mark.parametrize("scale", [1e-25, 1e18])
def test_a_potential_of_any_size_gives_the_same_vectors(scale):
    """Squares of its gradients, and lengths of what is not whitened, are beyond float32."""
    def scaled(params, x, key):
        return scale * log_density(params, x, key)

    scores, plain = Scores(scaled, weights(0)), Scores(log_density, weights(0))
    rows = []
    for each in (scores, plain):
        found = fisher_statistics(each, images(40), kronecker=True)
        rows.append(whole(FisherVectors(each, images(9, 1), found, damping=DAMPING, unit_rows=True)))
    assert rows[0] == pytest.approx(rows[1], abs=1e-4)
    assert np.asarray(unit_rows(scores(images(9)))) == pytest.approx(np.asarray(unit_rows(plain(images(9)))), abs=1e-5)
    assert np.asarray(lengths(scores(images(9)))) == pytest.approx(scale * np.asarray(lengths(plain(images(9)))))


def test_without_damping_what_never_moved_is_left_out():
    """40 samples of a bias of 60 numbers span 40 directions: the other 20 are float32's rounding."""
    index = (Parameter("bias", (60,), 0),)
    given = np.random.default_rng(0).normal(size=(40, 60)).astype(np.float32)
    roots, = inverse_roots(sides_sum(given, index) / 40, index, 0.0)
    strengths = np.linalg.eigvalsh(roots[1])
    assert (strengths > 1e-6).sum() == 40 and strengths.max() < 20


def test_factors_of_another_network_are_refused():
    scores = Scores(log_density, weights(0))
    found = fisher_statistics(scores, images(8), kronecker=True)
    with pytest.raises(ValueError, match=r"Kronecker factors of \d+ numbers, and these parameters have \d+"):
        FisherVectors(scores, images(8), found._replace(sides=found.sides[:-1]))
    with pytest.raises(ValueError, match="outputs='trace' has no Kronecker factors"):
        fisher_statistics(Scores(lambda params, x, key: jnp.stack([log_density(params, x, key)] * 2), weights(0),
                                 outputs="trace", count=2), images(8), kronecker=True)


def test_arrays_of_no_numbers_change_nothing():
    """Whatever their shape, before, between and after those of a network."""
    arrays = {"a": (0, 3), "cone": (3, 0), "e": (0,), "z": (2, 0, 3)}
    given = {**weights(0), **{name: jnp.zeros(shape, jnp.float32) for name, shape in arrays.items()}}
    rows = []
    for params in (weights(0), given):
        scores = Scores(log_density, params)
        found = fisher_statistics(scores, images(40), kronecker=True)
        assert found.dead == 3
        rows.append(whole(FisherVectors(scores, images(9, 1), found, damping=DAMPING, unit_rows=True)))
    assert len(scores.index) == 9
    assert rows[1] == pytest.approx(rows[0], rel=1e-6, abs=1e-8)


class TestEstimator:
    def fitted(self, **options) -> NeuralFisherKernel:
        return NeuralFisherKernel(log_density, weights(0), rank=RANK, damping=DAMPING, block=32, **options).fit(
            images(N, 1), model_samples=images(80, 9))

    def test_its_embeddings_are_the_definition_s(self, exact):
        found = self.fitted(whitening="kronecker", unit_rows=True).transform(images(N, 1))
        left, values, _ = np.linalg.svd(unit(exact), full_matrices=False)
        expected = left[:, :RANK] * values[:RANK]
        assert found @ found.T == pytest.approx(expected @ expected.T, abs=1e-4)

    def test_save_and_load_give_the_same_bits(self, tmp_path):
        fitted = self.fitted(whitening="kronecker", unit_rows=True)
        fitted.save(tmp_path / "factors.zarr")
        loaded = NeuralFisherKernel.load(tmp_path / "factors.zarr", log_density, weights(0), block=32)
        assert np.array_equal(loaded.transform(images(9)), fitted.transform(images(9)))
        assert (loaded.whitening, loaded.unit_rows) == ("kronecker", True)
        assert not np.allclose(self.fitted().transform(images(9)), fitted.transform(images(9)), atol=1e-2)

    def test_what_does_not_go_together_is_refused(self):
        with pytest.raises(ValueError, match=r"whitening='kronecker' goes with kernel='fisher'"):
            self.fitted(whitening="kronecker", kernel="ntk")
        with pytest.raises(ValueError, match=r"whitening='kroneker' must be one of 'diagonal', 'kronecker'"):
            NeuralFisherKernel(log_density, weights(0)).set_params(whitening="kroneker").fit(images(9))


def test_the_factors_count_as_memory():
    found, plain = vectors(), FisherVectors(vectors().scores, images(N, 1), FisherStatistics(
        np.zeros(368), np.ones(368), 80), block_rows=32)
    numbers = sum(side**2 for shape in ((9, 4), (1, 4), (64, 5), (1, 5), (1, 3)) for side in shape)
    assert (found.whitening_bytes, plain.whitening_bytes) == (20 * numbers, 0)
    options = {"rank": RANK, "oversampling": 4, "passes": 4}
    least = strategies.plan(plain, "stored", memory_bytes=2**30, **options).bytes
    assert strategies.plan(plain, "stored", memory_bytes=int(least) + 1, **options).bytes == least
    with pytest.raises(strategies.MemoryBudgetError, match=r"svd.strategy=stored needs"):
        strategies.plan(found, "stored", memory_bytes=int(least) + 1, **options)
    assert strategies.plan(found, "stored", memory_bytes=2**30, **options).bytes == least + 20 * numbers
