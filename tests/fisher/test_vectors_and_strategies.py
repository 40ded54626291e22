"""The matrix of Fisher vectors from its definition, every strategy against a float64 oracle, embeddings."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfk.fisher import strategies
from nfk.fisher.embedding import embed, scale
from nfk.fisher.products import JacobianProducts
from nfk.fisher.scores import ScoreError, Scores
from nfk.fisher.statistics import fisher_statistics, identity_statistics
from nfk.fisher.strategies import Machine, MemoryBudgetError
from nfk.fisher.vectors import FisherVectors
from nfk.linalg.rows import block_count
from tests.fisher.networks import images, log_density, weights
from tests.linalg.prescribed import true_residuals
from tests.linalg.test_rows import Memory

N, RANK, DAMPING = 150, 12, 1e-2


def fisher_vectors(n: int = N, dtype=np.float32, block_rows: int = 32, seed: int = 1):
    scores = Scores(log_density, weights(0, dtype))
    statistics = fisher_statistics(scores, images(80, seed=9, dtype=dtype), block=16)
    return FisherVectors(scores, images(n, seed, dtype), statistics, damping=DAMPING, block_rows=block_rows)


def whole(vectors) -> np.ndarray:
    return np.concatenate([np.asarray(vectors.block(index)) for index in range(block_count(vectors))])


@pytest.fixture(scope="module")
def exact():
    """V in float64, straight from the definition."""
    with jax.enable_x64(True):
        params, key = weights(0, np.float64), jax.random.key(0)

        def score(x):
            gradient = jax.grad(log_density)(params, jnp.asarray(x), key)
            return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(gradient)])

        samples = np.stack([score(x) for x in images(80, 9, np.float64)])
        rows = np.stack([score(x) for x in images(N, 1, np.float64)])
    mean, diagonal = samples.mean(axis=0), samples.var(axis=0)
    root = np.sqrt(diagonal + DAMPING * diagonal.mean())
    return np.where(diagonal > 0, (rows - mean) / root, 0.0)


def test_rows_follow_the_definition_in_float64(exact):
    with jax.enable_x64(True):
        found = whole(fisher_vectors(dtype=np.float64))
    assert found == pytest.approx(exact, rel=1e-10, abs=1e-12)


def test_rows_do_not_depend_on_the_block(exact):
    for block_rows in (1, 7, 64, 500):
        assert whole(fisher_vectors(block_rows=block_rows)) == pytest.approx(exact, rel=2e-3, abs=2e-4)


def test_with_identity_statistics_the_kernel_is_the_tangent_kernel():
    scores, x = Scores(log_density, weights(0)), images(10)
    vectors = whole(FisherVectors(scores, x, identity_statistics(scores.size), damping=0.0))
    jacobian = np.asarray(scores(x))
    assert vectors @ vectors.T == pytest.approx(jacobian @ jacobian.T, rel=1e-6)


class TestJacobianProducts:
    """The paper's Algorithms 5 and 6 are products with the same matrix that the rows make up."""

    @pytest.fixture
    def products(self):
        with jax.enable_x64(True):
            yield JacobianProducts(fisher_vectors(dtype=np.float64))

    def test_products_are_those_of_the_definition(self, products, exact):
        rng = np.random.default_rng(0)
        tangents, cotangents = rng.standard_normal((exact.shape[1], 3)), rng.standard_normal((N, 3))
        assert np.asarray(products.matmat(jnp.asarray(tangents))) == pytest.approx(exact @ tangents, rel=1e-9, abs=1e-9)
        assert np.asarray(products.rmatmat(jnp.asarray(cotangents))) == pytest.approx(
            exact.T @ cotangents, rel=1e-9, abs=1e-9)

    def test_adjoint_law(self, products):
        rng = np.random.default_rng(1)
        x, y = jnp.asarray(rng.standard_normal((products.shape[1], 1))), jnp.asarray(rng.standard_normal((N, 1)))
        assert float(jnp.sum(products.matmat(x) * y)) == pytest.approx(
            float(jnp.sum(x * products.rmatmat(y))), rel=1e-10)

    def test_squared_norm(self, products, exact):
        assert products.squared_norm() == pytest.approx(np.sum(exact**2), rel=1e-10)


def test_the_papers_algorithm_agrees_as_far_as_it_converges(exact):
    truth = np.linalg.svd(exact, compute_uv=False)[:RANK] ** 2
    found = strategies.decompose(fisher_vectors(), "jvp", rank=RANK, key=jax.random.key(3))
    assert found.singular_values[: RANK // 2] ** 2 == pytest.approx(truth[: RANK // 2], rel=1e-5)
    claimed = found.left * found.singular_values[None, :]
    image = embed(fisher_vectors(), found.right)
    reached = np.linalg.norm(image - claimed, axis=0) / found.singular_values[0]
    assert reached == pytest.approx(found.residuals, rel=0.5, abs=2e-6)


@pytest.mark.parametrize("strategy", ["gram", "stream"])
def test_estimated_errors_count_what_float32_does_to_gradients(strategy):
    ratios = []
    for seed in range(1, 6):  # a true error is one draw of what is estimated, and near zero now and then
        vectors = fisher_vectors(152, block_rows=64, seed=seed)
        rows, which = vectors.sample64(152)
        assert which.tolist() == list(range(152))
        truth = np.linalg.svd(rows, compute_uv=False)[:RANK] ** 2
        factors = strategies.decompose(vectors, strategy, rank=RANK, key=jax.random.key(3))
        ratios.append(factors.errors / np.abs(factors.singular_values**2 / truth - 1))
    assert np.min(ratios) > 1 / 10
    assert np.median(ratios) < 10


def test_a_model_that_is_another_function_in_float64_is_judged_in_its_own_precision():
    def noisy(params, x, key):
        return log_density(params, x + 0.5 * jax.random.normal(key, x.shape), key)  # other bits in float64

    scores, x = Scores(noisy, weights(0)), images(40)
    vectors = FisherVectors(scores, x, fisher_statistics(scores, x), block_rows=16)
    rows, which = vectors.sample64(16)
    assert which.tolist() == [0, 1, 5, 6, 10, 11, 16, 17, 21, 22, 27, 28, 32, 33, 38, 39][:len(which)]
    assert np.array_equal(rows, whole(vectors)[which].astype(np.float64))


def test_sampled_rows_are_those_of_float64_and_spread(exact):
    rows, which = fisher_vectors().sample64(30)
    assert which[0] == 0
    assert which[-1] == N - 1
    assert len(set(which.tolist())) == len(which) == 24  # eight runs of three
    in_float64 = fisher_vectors()  # its statistics are those of float32
    assert rows == pytest.approx(exact[which], rel=1e-3, abs=1e-4)
    assert np.max(np.abs(rows - whole(in_float64)[which])) > 0


@pytest.mark.parametrize("strategy", [name for name in strategies.STRATEGIES if name != "jvp"])
class TestStrategies:
    def factors(self, strategy, **options):
        return strategies.decompose(fisher_vectors(), strategy, rank=RANK, key=jax.random.key(3), **options)

    def test_eigenvalues_against_float64(self, strategy, exact):
        truth = np.linalg.svd(exact, compute_uv=False)[:RANK] ** 2
        error = np.abs(self.factors(strategy).singular_values ** 2 / truth - 1)
        assert np.max(error[: RANK // 2]) < 1e-6
        assert np.max(error) < 1e-4

    def test_residuals_tell_the_truth(self, strategy, exact):
        factors = self.factors(strategy)
        ratio = factors.residuals / true_residuals(exact, factors)
        assert np.all(ratio > 0.1)
        assert np.all(ratio[factors.residuals > 1e-5] < 10)

    def test_embedding_of_the_fitted_rows_is_u_s(self, strategy):
        factors = self.factors(strategy)
        claimed = factors.left * factors.singular_values[None, :]
        assert embed(fisher_vectors(), factors.right) == pytest.approx(claimed, abs=2e-5 * factors.singular_values[0])


def test_gram_gives_the_same_factors_however_tight_the_memory():
    def values(memory):
        return strategies.decompose(fisher_vectors(), "gram", rank=RANK, key=jax.random.key(3),
                                    memory_bytes=memory).singular_values

    # with all rows held the products are float32's first, and good enough only to its round-off
    assert values(1) ** 2 == pytest.approx(values(2**30) ** 2, rel=float(np.finfo(np.float32).eps))
    assert np.array_equal(values(1), values(2**10))


def test_interrupted_stream_ends_on_the_same_bits():
    options = {"rank": RANK, "key": jax.random.key(3), "passes": 3}
    undisturbed = strategies.decompose(fisher_vectors(), "stream", **options)
    for killed_after in range(1, 18, 2):
        memory = Memory(die_after=killed_after)
        with pytest.raises(KeyboardInterrupt):
            strategies.decompose(fisher_vectors(), "stream", checkpoint=memory, **options)
        memory.die_after = None
        resumed = strategies.decompose(fisher_vectors(), "stream", checkpoint=memory, **options)
        assert np.array_equal(resumed.left, undisturbed.left)
        assert np.array_equal(resumed.right, undisturbed.right)
        assert np.array_equal(resumed.singular_values, undisturbed.singular_values)


class TestChoice:
    def plans(self, n=10_000, p=50_000, memory=4 * 2**30):
        return strategies.plans((n, p), Machine(1e-3, 1e11, 4e10), rank=64, oversampling=16, passes=6, block_rows=256,
                                memory_bytes=memory)

    def test_auto_takes_the_quickest_that_fits(self):
        assert strategies.choose(self.plans(n=500), "auto", 4 * 2**30).strategy == "explicit"
        assert strategies.choose(self.plans(), "auto", 4 * 2**30).strategy == "stored"
        assert strategies.choose(self.plans(n=10**6), "auto", 4 * 2**30).strategy == "stream"

    def test_auto_never_exceeds_the_budget(self):
        for n in (500, 10_000, 100_000):
            for memory in (2**30, 2**31, 2**34):
                assert strategies.choose(self.plans(n, memory=memory), "auto", memory).bytes <= memory

    def test_a_budget_too_small_is_refused_with_the_bytes(self):
        with pytest.raises(MemoryBudgetError, match=r"svd.strategy=auto needs 0\.\d\d GiB, above svd.memory_gib=0\.00"):
            strategies.choose(self.plans(), "auto", 2**10)
        with pytest.raises(MemoryBudgetError, match=r"svd\.strategy=explicit needs"):
            strategies.choose(self.plans(n=100_000), "explicit", 2**30)

    def test_streaming_memory_of_the_model_does_not_grow_with_n(self):
        small, large = ({plan.strategy: plan.bytes for plan in self.plans(n)}["stream"] for n in (10**4, 10**6))
        assert large - small == (10**6 - 10**4) * 64 * 4  # U alone

    def test_a_small_set_takes_the_gram_matrix_without_a_probe(self, monkeypatch):
        def probed(*_):
            raise AssertionError("probed")

        monkeypatch.setattr(strategies, "probe_machine", probed)
        options = {"rank": 32, "oversampling": 16, "passes": 6, "memory_bytes": 2**32}
        assert strategies.plan(fisher_vectors(n=60), "auto", **options).strategy == "explicit"
        assert strategies.plan(fisher_vectors(), "stream", **options).strategy == "stream"
        with pytest.raises(AssertionError, match="probed"):
            strategies.plan(fisher_vectors(n=4000), "auto", **options)

    def test_few_parameters_take_the_p_by_p_matrix(self):
        assert strategies.choose(self.plans(n=10**6, p=200, memory=2**28), "auto", 2**28).strategy == "cogram"

    def test_the_probe_measures(self):
        machine = strategies.probe_machine(fisher_vectors(), 8)
        assert machine.gradient_seconds > 0
        assert machine.flops > 1e6


def test_statistics_of_another_model_are_refused():
    scores = Scores(log_density, weights(0))
    with pytest.raises(ScoreError, match="the statistics have 5 parameters, the model 368"):
        FisherVectors(scores, images(4), identity_statistics(5))


def test_a_bad_example_is_named_by_its_row():
    vectors = fisher_vectors()
    vectors._examples[70] = np.nan
    with pytest.raises(ScoreError, match="example 70:"):
        whole(vectors)


class TestScaling:
    rows = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)

    def scaled(self, scaling):
        return scale(self.rows, scaling, singular_values=np.array([2.0, 4.0]), fitted=4)

    def test_none(self):
        assert self.scaled("none") is self.rows

    def test_whitened(self):
        assert self.scaled("whitened").tolist() == [[3.0, 2.0], [0.0, 0.0]]

    def test_unit(self):
        assert self.scaled("unit") == pytest.approx(np.array([[0.6, 0.8], [0.0, 0.0]]))

    @pytest.mark.parametrize("size", [1e-30, 1e30])
    def test_unit_of_rows_whose_squares_leave_float32(self, size):
        found = scale(self.rows * np.float32(size), "unit", singular_values=np.ones(2), fitted=4)
        assert found == pytest.approx(np.array([[0.6, 0.8], [0.0, 0.0]]))

    def test_what_float32_cannot_hold_is_refused(self):
        with pytest.raises(ScoreError, match="example 1: its score is so long that its embedding leaves float32; look"):
            scale(self.rows[::-1] * np.float32(1e37), "whitened", singular_values=np.array([1.0, 1e-3]), fitted=4)


@pytest.mark.parametrize("held", [True, False])
def test_an_embedding_that_float32_cannot_hold_is_refused(held):
    """The rows can be held, their products with W cannot: W in memory or read by rows."""
    scores = Scores(lambda params, x, key: x @ params, jnp.ones(16))
    x = np.ones((9, 16), np.float32)
    x[7] = 2e38
    right = np.full((16, 1), 0.25, np.float32)
    with pytest.raises(ScoreError, match="example 7: its score is so long that its embedding leaves float32") as caught:
        embed(FisherVectors(scores, x, identity_statistics(16), damping=0.0, block_rows=4),
              jnp.asarray(right) if held else right)
    assert len(str(caught.value).splitlines()) == 1
