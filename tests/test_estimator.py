"""The estimator on any JAX function: laws of fit and transform, options, save and load."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from nfk import NeuralFisherKernel
from nfk.store import StoreError
from tests.fisher.networks import images, log_density, weights

RANK = 10


def estimator(**options):
    return NeuralFisherKernel(log_density, weights(0), **{"rank": RANK, "block": 32, **options})


@pytest.fixture(scope="module")
def fitted():
    return estimator().fit(images(90, 1), model_samples=images(60, 9))


def test_fitted_images_embed_as_u_s():
    both = estimator()
    direct = both.fit_transform(images(90, 1), model_samples=images(60, 9))
    assert both.transform(images(90, 1)) == pytest.approx(direct, abs=2e-5 * both.singular_values_[0])


def test_new_images_do_not_depend_on_their_company(fitted):
    rows = fitted.transform(images(70, 2))
    assert rows.shape == (70, RANK)
    assert rows.dtype == np.float32
    for start in (0, 13, 69):
        assert fitted.transform(images(70, 2)[start : start + 1])[0] == pytest.approx(rows[start], rel=1e-4, abs=1e-4)


def test_squared_lengths_of_components_are_the_eigenvalues(fitted):
    rows = fitted.transform(images(90, 1)).astype(np.float64)
    assert np.sum(rows**2, axis=0) == pytest.approx(fitted.singular_values_**2, rel=1e-4)
    gram = rows.T @ rows
    assert np.max(np.abs(gram - np.diag(np.diag(gram)))) < 1e-4 * gram[0, 0]


def test_explained_variance_is_cumulative_and_of_the_whole(fitted):
    ratio = fitted.explained_variance_ratio_
    assert np.all(np.diff(ratio) > 0)
    assert 0 < ratio[-1] < 1
    everything = estimator(rank=80).fit(images(90, 1), model_samples=images(60, 9))
    assert everything.explained_variance_ratio_[-1] > 0.99


@pytest.mark.parametrize("strategy", ["explicit", "gram", "stored", "stream"])
def test_strategies_agree(fitted, strategy):
    other = estimator(strategy=strategy).fit(images(90, 1), model_samples=images(60, 9))
    assert other.strategy_ == strategy
    assert other.singular_values_ == pytest.approx(fitted.singular_values_, rel=1e-5)
    assert other.transform(images(5, 2)) == pytest.approx(fitted.transform(images(5, 2)), rel=1e-2, abs=1e-3)


def test_without_samples_the_images_give_the_statistics():
    x = images(90, 1)
    assert np.array_equal(estimator().fit(x).mean_score_, estimator().fit(x, model_samples=x).mean_score_)


def test_whitened_components_have_unit_mean_square():
    rows = estimator(scaling="whitened").fit_transform(images(90, 1))
    assert np.mean(rows.astype(np.float64) ** 2, axis=0) == pytest.approx(np.ones(RANK), rel=1e-4)


def test_save_and_load_give_the_same_bits(fitted, tmp_path):
    fitted.save(tmp_path / "kernel.zarr")
    loaded = NeuralFisherKernel.load(tmp_path / "kernel.zarr", log_density, weights(0), block=32)
    assert np.array_equal(loaded.transform(images(20, 2)), fitted.transform(images(20, 2)))
    assert np.array_equal(loaded.residuals_, fitted.residuals_)


def test_factors_of_other_parameters_are_refused(fitted, tmp_path):
    fitted.save(tmp_path / "kernel.zarr")
    with pytest.raises(StoreError, match="was made from params"):
        NeuralFisherKernel.load(tmp_path / "kernel.zarr", log_density, weights(1))


def test_a_missed_tolerance_is_told():
    with pytest.warns(ConvergenceWarning, match=r"residual .* exceeds tolerance=1e-09 from mode 1 of 10 on; raise"):
        estimator(passes=1, tolerance=1e-9, strategy="stream").fit(images(90, 1))


def test_ctrl_c_keeps_what_whole_passes_gave():
    def stop(done, total, what):
        if what.startswith("pass 3"):
            raise KeyboardInterrupt

    stopped = estimator(strategy="stream", tolerance=1e-9, progress=stop)
    with pytest.warns(ConvergenceWarning) as told:
        stopped.fit(images(90, 1))
    assert "interrupted; kept what 2 whole passes gave" in str(told[0].message)
    with pytest.warns(ConvergenceWarning):
        whole = estimator(strategy="stream", tolerance=1e-9, passes=2).fit(images(90, 1))
    assert np.array_equal(stopped.transform(images(5, 2)), whole.transform(images(5, 2)))


def test_fit_and_transform_compile_once_each():
    traced = []

    def counted(params, x, key):
        traced.append(x.shape)
        return log_density(params, x, key)

    fitted = NeuralFisherKernel(counted, weights(0), rank=4, block=16, strategy="stream").fit(images(64))
    fitted.transform(images(16, 3))
    before = len(traced)
    fitted.transform(images(32, 4))
    fitted.fit(images(64, 5)).transform(images(16, 6))
    assert len(traced) == before
    assert "_compiled" not in fitted.__getstate__()


def test_the_key_is_kept(tmp_path):
    def noisy(params, x, key):
        return log_density(params, x + jax.random.normal(key, x.shape), key)

    fitted = NeuralFisherKernel(noisy, weights(0), rank=4, key=jax.random.key(7)).fit(images(40))
    fitted.save(tmp_path / "noisy.zarr")
    loaded = NeuralFisherKernel.load(tmp_path / "noisy.zarr", noisy, weights(0))
    assert np.array_equal(loaded.transform(images(5, 2)), fitted.transform(images(5, 2)))


def test_a_random_key_among_the_parameters_is_kept_apart(tmp_path):
    def noisy(params, x, key):
        return log_density(params["net"], x + jax.random.normal(params["noise"], x.shape), key)

    params = {"net": weights(0), "noise": jax.random.key(7)}
    fitted = NeuralFisherKernel(noisy, params, rank=4).fit(images(40))
    fitted.save(tmp_path / "noisy.zarr")
    loaded = NeuralFisherKernel.load(tmp_path / "noisy.zarr", noisy, params)
    assert np.array_equal(loaded.transform(images(5, 2)), fitted.transform(images(5, 2)))
    with pytest.raises(StoreError, match="was made from params"):
        NeuralFisherKernel.load(tmp_path / "noisy.zarr", noisy, {**params, "noise": jax.random.key(8)})


def test_before_fit_there_is_nothing_to_transform():
    with pytest.raises(NotFittedError):
        estimator().transform(images(2))


def test_scikit_learn_can_clone_it():
    copy = clone(estimator(rank=7))
    assert copy.rank == 7
    assert copy.fit(images(40)).n_features_out_ == 7


def test_fewer_modes_than_asked_where_the_matrix_has_no_more():
    def linear(params, x, key):
        return jnp.sum(params["w"] * jnp.mean(x, axis=(1, 2)))

    found = NeuralFisherKernel(linear, {"w": jnp.ones(8)}, rank=8).fit(np.repeat(images(5), 4, axis=0))
    assert found.n_features_out_ == 4  # five different images, centred
    assert found.transform(images(3)).shape == (3, 4)
