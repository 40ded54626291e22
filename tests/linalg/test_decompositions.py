"""Every decomposition against float64 SVDs of matrices with prescribed spectra, and the laws of an SVD."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfk.linalg import gram, krylov
from nfk.linalg.cogram import cogram_svd
from nfk.linalg.factors import RankError, with_rounding
from nfk.linalg.gram import gram_matrix, gram_svd
from nfk.linalg.krylov import Interrupted, block_krylov, sample_rows
from nfk.linalg.orthonormal import inner, inner_error
from nfk.linalg.rows import DenseRows, RangeError
from nfk.linalg.subspace import DenseProducts, subspace_iteration, subspace_svd
from tests.linalg.prescribed import SPECTRA, matrix, true_residuals
from tests.linalg.test_rows import Memory

N, P, RANK = 300, 500, 16
EXACT = {"gram": gram_svd, "cogram": cogram_svd}
METHODS = [*EXACT, "krylov"]


def decompose(method: str, values: np.ndarray, rank: int = RANK, block_rows: int = 64, **options):
    rows = DenseRows(values, block_rows)
    if method in EXACT:
        return EXACT[method](rows, rank=rank, **options)
    if method == "subspace":
        return subspace_svd(DenseProducts(values), rank=rank, key=jax.random.key(5), **options)
    return block_krylov(rows, rank=rank, key=jax.random.key(5), **options)


@functools.cache
def solved(method: str, name: str, seed: int):
    values = matrix(SPECTRA[name](120), N, P, seed)
    return values, np.linalg.svd(values.astype(np.float64), compute_uv=False), decompose(method, values)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("method", METHODS)
class TestAgainstFloat64:
    @pytest.fixture
    def case(self, method, name, seed):
        return solved(method, name, seed)

    def test_eigenvalues(self, case):
        _, exact, factors = case
        kept = len(factors.singular_values)
        error = np.abs(factors.singular_values**2 - exact[:kept] ** 2)
        # relative to each, down to float32's resolution of the largest
        allowed = 1e-5 * exact[:kept] ** 2 + np.finfo(np.float32).eps * exact[0] ** 2
        assert np.all(error <= allowed)

    def test_rank_is_found(self, case, name):
        _, _, factors = case
        assert len(factors.singular_values) == (10 if name == "rank deficient" else RANK)

    def test_factors_are_orthonormal(self, case):
        _, _, factors = case
        left = np.asarray(factors.left, np.float64)
        assert factors.orthogonality < 2e-6
        # U = V W / s amplifies the rounding of V's largest mode in the smallest kept ones
        spread = factors.singular_values[0] / factors.singular_values[-1]
        assert np.max(np.abs(left.T @ left - np.eye(left.shape[1]))) < 2e-6 * spread

    def test_values_descend(self, case):
        assert np.all(np.diff(case[2].singular_values) <= 0)

    def test_left_factor_is_the_image_of_the_right(self, case):
        values, exact, factors = case
        image = values.astype(np.float64) @ np.asarray(factors.right, np.float64)
        claimed = factors.left * factors.singular_values[None, :]
        assert np.max(np.linalg.norm(image - claimed, axis=0)) < 2e-6 * exact[0]

    def test_residuals_tell_the_truth(self, case):
        values, _, factors = case
        ratio = factors.residuals / true_residuals(values, factors)
        assert np.all(ratio > 0.1)
        meaningful = factors.residuals > 1e-6  # below, both are float32 round-off
        assert np.all(ratio[meaningful] < 10)

    def test_squared_norm_is_of_the_whole_matrix(self, case):
        _, exact, factors = case
        assert factors.squared_norm == pytest.approx(np.sum(exact**2), rel=1e-5)
        assert factors.explained_variance == pytest.approx(
            np.cumsum(factors.singular_values**2) / np.sum(exact**2), rel=1e-5)

    def test_largest_entry_of_each_right_vector_is_positive(self, case):
        right = np.asarray(case[2].right)
        assert np.all(right[np.argmax(np.abs(right), axis=0), np.arange(right.shape[1])] > 0)


@pytest.mark.parametrize("passes", [1, 2, 3, 5])
def test_krylov_gains_with_every_pass(passes):
    values = matrix(SPECTRA["slow decay"](120), N, P, 0)
    exact = np.linalg.svd(values.astype(np.float64), compute_uv=False)[:RANK]

    def worst(count):
        found = decompose("krylov", values, passes=count).singular_values
        return np.max(np.abs(found**2 / exact**2 - 1))

    assert worst(passes + 1) < worst(passes) or worst(passes + 1) < 1e-6


class TestSubspaceIteration:
    """The paper's Algorithm 4: what it promises, which is less than the others give."""

    @pytest.fixture(params=[0, 1])
    def case(self, request):
        values = matrix(SPECTRA["fast decay"](120), N, P, request.param)
        exact = np.linalg.svd(values.astype(np.float64), compute_uv=False)[:RANK]
        return values, exact, decompose("subspace", values)

    def test_eigenvalues(self, case):
        _, exact, factors = case
        assert factors.singular_values**2 == pytest.approx(exact**2, rel=1e-5)

    def test_factors_are_orthonormal(self, case):
        left = np.asarray(case[2].left, np.float64)
        assert case[2].orthogonality < 2e-6
        assert np.max(np.abs(left.T @ left - np.eye(RANK))) < 2e-6

    def test_left_factor_is_the_image_of_the_right_up_to_the_residual(self, case):
        values, exact, factors = case
        rest = values.astype(np.float64) @ np.asarray(factors.right, np.float64)
        rest -= factors.left * factors.singular_values[None, :]
        assert np.linalg.norm(rest, axis=0) / exact[0] == pytest.approx(factors.residuals, rel=0.5, abs=3e-7)

    def test_eleven_products_each_way(self, case):
        made = []

        class Counted(DenseProducts):
            def matmat(self, vectors):
                made.append(("V", vectors.shape[1]))
                return super().matmat(vectors)

            def rmatmat(self, vectors):
                made.append(("V^T", vectors.shape[1]))
                return super().rmatmat(vectors)

        subspace_iteration(Counted(case[0]), rank=RANK, key=jax.random.key(0), oversampling=10, power_iterations=10)
        assert made == [("V", 26), ("V^T", 26)] * 11


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ["fast decay", "slow decay", "one huge mode"])
@pytest.mark.parametrize("passes", [2, 3, 4, 6])
def test_estimated_eigenvalue_errors_tell_the_truth(name, seed, passes):
    values = matrix(SPECTRA[name](120), N, P, seed)
    truth = np.linalg.svd(values.astype(np.float64), compute_uv=False)[:RANK] ** 2
    factors = with_rounding(decompose("krylov", values, passes=passes), values[:128].astype(np.float64), np.arange(128))
    true = np.abs(factors.singular_values**2 / truth - 1)
    assert np.all(factors.errors > true / 10)
    meaningful = true > 1e-6  # below, rounding may cancel by chance
    assert np.all(factors.errors[meaningful] < 10 * true[meaningful])


class TestStartFromASample:
    """Of many rows, Q_1 is learnt from some."""

    def found(self, values, passes, monkeypatch, sample=True):
        if not sample:
            monkeypatch.setattr(krylov, "sample_rows", lambda *_: 0)
        return decompose("krylov", values, rank=8, oversampling=8, passes=passes, block_rows=32)

    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_it_comes_nearer_in_as_many_passes(self, seed, monkeypatch):
        values = matrix(SPECTRA["slow decay"](120), 2400, 300, seed)
        truth = np.linalg.svd(values.astype(np.float64), compute_uv=False)[:8]
        error = np.abs(self.found(values, 3, monkeypatch).singular_values / truth - 1)
        blind = np.abs(self.found(values, 3, monkeypatch, sample=False).singular_values / truth - 1)
        assert np.max(error) < 0.3 * np.max(blind)

    def test_a_mode_that_no_sampled_row_shows_is_found(self, monkeypatch):
        values = matrix(SPECTRA["fast decay"](120), 2400, 300, 0)
        values[700] = 100 * np.random.default_rng(1).standard_normal(300)  # in block 21 of 75, which is not sampled
        truth = np.linalg.svd(values.astype(np.float64), compute_uv=False)[:8]
        assert self.found(values, 5, monkeypatch).singular_values == pytest.approx(truth, rel=1e-5)

    def test_rows_sampled(self):
        assert sample_rows(2400, 16, 5, 64) == 128  # 8 a column
        assert sample_rows(2400, 16, 3, 32) == 96  # 6 a column: the memory of as many columns
        assert sample_rows(10**6, 144, 10, 256) == 1024
        assert sample_rows(500, 16, 10, 64) == 0
        assert sample_rows(2400, 8, 10, 64) == 0

    def test_killed_anywhere_it_ends_on_the_same_bits(self):
        values = matrix(SPECTRA["slow decay"](120), 1200, 200, 0)
        options = {"rank": 8, "oversampling": 8, "passes": 2, "block_rows": 32}
        assert sample_rows(1200, 16, 2, 32) == 64
        undisturbed = decompose("krylov", values, **options)
        for killed_after in (1, 2, 20, 39, 40, 60):
            memory = Memory(die_after=killed_after)
            with pytest.raises(KeyboardInterrupt):
                decompose("krylov", values, checkpoint=memory, **options)
            memory.die_after = None
            resumed = decompose("krylov", values, checkpoint=memory, **options)
            assert np.array_equal(resumed.left, undisturbed.left)
            assert np.array_equal(resumed.right, undisturbed.right)

    def test_with_more_passes_later_the_start_is_the_one_that_was(self):
        values, memory = matrix(SPECTRA["slow decay"](120), 2400, 300, 0), Memory()
        options = {"rank": 12, "oversampling": 8, "block_rows": 128, "checkpoint": memory}
        assert sample_rows(2400, 20, 1, 128) == 0
        assert sample_rows(2400, 20, 6, 128) == 128
        decompose("krylov", values, passes=1, **options)
        later = decompose("krylov", values, passes=6, **options)
        truth = np.linalg.svd(values.astype(np.float64), compute_uv=False)[:12]
        assert later.orthogonality < 2e-6
        assert later.singular_values == pytest.approx(truth, rel=1e-3)
        assert np.all(true_residuals(values, later) < 10 * later.residuals)

    def test_zero_rows_teach_nothing(self, monkeypatch):
        values = matrix(SPECTRA["fast decay"](120), 2400, 300, 0)
        values[np.setdiff1d(np.arange(2400), np.arange(700, 1100))] = 0
        truth = np.linalg.svd(values.astype(np.float64), compute_uv=False)[:8]
        assert self.found(values, 5, monkeypatch).singular_values == pytest.approx(truth, rel=1e-4)


def test_krylov_interrupted_gives_what_the_whole_passes_gave():
    values = matrix(SPECTRA["slow decay"](120), N, P, 0)
    calls = []

    def stop(done, total, what):
        calls.append(what)
        if what.startswith("pass 4"):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as stopped:
        decompose("krylov", values, passes=8, progress=stop)
    whole = decompose("krylov", values, passes=3)
    partial = stopped.value.factors()
    assert partial.passes == 3
    assert np.array_equal(partial.singular_values, whole.singular_values)
    assert np.array_equal(partial.right, whole.right)


def test_krylov_interrupted_in_its_first_pass_is_just_interrupted():
    def stop(done, total, what):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        decompose("krylov", matrix(SPECTRA["slow decay"](120), N, P, 0), progress=stop)
    assert stopped.type is KeyboardInterrupt


def test_krylov_stops_at_the_tolerance_and_no_sooner():
    values = matrix(SPECTRA["slow decay"](120), N, P, 0)
    loose, tight = (decompose("krylov", values, passes=12, tolerance=bound) for bound in (1e-2, 1e-5))
    assert loose.passes < tight.passes < 12
    assert np.max(tight.residuals) <= 1e-5 < np.max(loose.residuals) <= 1e-2


def test_same_bits_again():
    values = matrix(SPECTRA["slow decay"](120), N, P, 0)
    first, second = decompose("krylov", values), decompose("krylov", values)
    assert np.array_equal(first.left, second.left)
    assert np.array_equal(first.right, second.right)


def test_float64_rows_give_float64_factors():
    values = matrix(SPECTRA["slow decay"](120), N, P, 0, np.float64)
    exact = np.linalg.svd(values, compute_uv=False)[:RANK]
    with jax.enable_x64(True):
        exhaustive = decompose("gram", values)
        krylov = decompose("krylov", values, passes=10, dtype=np.float64)
    assert exhaustive.singular_values == pytest.approx(exact, rel=1e-12)
    assert krylov.singular_values == pytest.approx(exact, rel=1e-10)


def test_separated_subspaces_agree():
    spectrum = np.concatenate([np.linspace(10, 5, 8), np.linspace(1, 0.5, 50)])
    values = matrix(spectrum, N, P, 3)
    ours = np.asarray(decompose("krylov", values, rank=8).right, np.float64)
    exact = np.linalg.svd(values.astype(np.float64))[2][:8].T
    missed = np.linalg.norm(exact - ours @ np.linalg.lstsq(ours, exact)[0], 2)  # sine of the largest angle
    assert missed < 1e-6


def test_modes_take_products_in_the_rows_precision_unless_they_drown_in_its_rounding(monkeypatch):
    asked = []

    def noted(a, b, *, double):
        asked.append(double)
        return inner(a, b, double=double)

    monkeypatch.setattr(gram, "inner", noted)
    n, rank = 160, 4
    clear = matrix(SPECTRA["fast decay"](120), n, P, 0)
    drowned = matrix(np.r_[1e4, np.ones(119)], n, P, 0)
    for values, expected in ((clear, {False}), (drowned, {False, True})):
        asked.clear()
        factors = gram.gram_svd(DenseRows(values, 64), rank=rank)
        truth = np.linalg.svd(values.astype(np.float64), compute_uv=False)[:rank] ** 2
        assert set(asked) == expected
        true = np.abs(factors.singular_values**2 / truth - 1)
        assert np.all(true < 1e-6)
    asked.clear()
    gram.gram_svd(DenseRows(clear, 64), rank=rank, resident_rows=64)
    assert set(asked) == {True}  # rows that must be computed again for a second try


@pytest.mark.parametrize("scale", [1e-22, 1e-19, 1e-17, 1.0, 1e19])
def test_gram_s_modes_do_not_depend_on_the_rows_scale(scale):
    """Squares of the smaller ones and the larger ones are beyond float32."""
    values = np.random.default_rng(0).standard_normal((12, 4000)).astype(np.float32) * np.float32(scale)
    truth = np.linalg.svd(values.astype(np.float64), compute_uv=False)[:4]
    modes = gram.gram_modes(DenseRows(values, 64), rank=4)
    assert np.abs(modes.singular_values**2 / truth**2 - 1).max() < 3e-7
    assert np.abs(modes.errors).max() < 1.2e-7


@pytest.mark.parametrize("method", ["krylov", "subspace"])
@pytest.mark.parametrize("scale", [2.0**-47, 2.0**47])
def test_iterations_do_not_depend_on_the_rows_scale(method, scale):
    """s_1^2 is a float32 number; its square, or s_1^3, is none. Both are right to float32's rounding of s_1."""
    values = matrix(SPECTRA["slow decay"](120), N, P, 0)  # s_1 = 1
    found = [decompose(method, rows, rank=4) for rows in (values, values * np.float32(scale))]
    assert found[1].singular_values == pytest.approx(found[0].singular_values * scale, rel=2e-6)
    assert found[1].residuals == pytest.approx(found[0].residuals, abs=1e-6)


@pytest.mark.parametrize("method", ["krylov", "subspace"])
def test_rows_whose_squares_are_beyond_float32_are_told(method):
    values = matrix(SPECTRA["slow decay"](120), N, P, 0)
    values[150] *= np.float32(1e22) / np.linalg.norm(values[150])
    rows = {"krylov": "128 to 191", "subspace": "0 to 299"}[method]
    with pytest.raises(RangeError, match=f"rows {rows} of the matrix: float32 cannot hold the squares"):
        decompose(method, values, rank=4)


@pytest.mark.parametrize("p", [3, 256, 1024, 10_000])
@pytest.mark.parametrize("rows", [1, 5, 100])
def test_inner_products_are_exact_to_the_rows_precision(rows, p):
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.standard_normal((count, p)), jnp.float32) for count in (rows, 7))
    exact_a, exact_b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    for left, right in ((a, b), (a, a)):
        lengths = [np.linalg.norm(np.asarray(rows, np.float64), axis=1) for rows in (left, right)]
        error = inner(left, right, double=False) - np.asarray(left, np.float64) @ np.asarray(right, np.float64).T
        error /= np.outer(*lengths) * inner_error(p, jnp.float32)
        assert np.max(np.abs(error)) < 4
        # a row with itself is a sum of one sign, which rounding hurts the most
        assert left is not right or np.sqrt(np.mean(np.diag(error) ** 2)) < 1
    assert inner(a, b) == pytest.approx(exact_a @ exact_b.T, rel=1e-12, abs=1e-11)
    assert inner(a, a) == pytest.approx(exact_a @ exact_a.T, rel=1e-12, abs=1e-11)


@pytest.mark.parametrize("resident", [1, 64, 128, 200, 10_000])
def test_gram_matrix_is_the_same_however_many_rows_are_held(resident):
    values = matrix(SPECTRA["slow decay"](120), N, P, 0)
    whole, passes = gram_matrix(DenseRows(values, 64))
    parts, more = gram_matrix(DenseRows(values, 64), resident_rows=resident)
    assert passes == 1 <= more
    assert np.array_equal(whole, parts)
    assert whole == pytest.approx(values.astype(np.float64) @ values.T.astype(np.float64), abs=1e-12)


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (5, 40), (40, 5), (300, 500)])
@pytest.mark.parametrize("method", METHODS)
def test_any_shape_up_to_full_rank(method, shape):
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    rank = min(*shape, 20)
    exact = np.linalg.svd(values.astype(np.float64), compute_uv=False)[:rank]
    options = {"passes": 12} if method == "krylov" else {}
    assert decompose(method, values, rank=rank, **options).singular_values == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
class TestRefusals:
    def test_rank_above_the_matrix(self, method):
        with pytest.raises(RankError, match=r"rank=6 is not in 1\.\.min\(n, p\)=5; lower it"):
            decompose(method, np.ones((5, 9), np.float32), rank=6)

    def test_zero_matrix(self, method):
        with pytest.raises(RankError, match="no score differs from the mean score"):
            decompose(method, np.zeros((20, 30), np.float32), rank=3)

    def test_equal_rows_give_one_mode(self, method):
        factors = decompose(method, np.ones((20, 30), np.float32), rank=3)
        assert factors.singular_values == pytest.approx([np.sqrt(600)], rel=1e-6)
