"""The estimator on any JAX function: laws of fit and transform, options, save and load."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nfk import NeuralFisherKernel, store
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
    with store.write(tmp_path / "another.zarr", inputs={}) as writer:
        writer.put("right", np.ones((2, 2), np.float32))
    with pytest.raises(StoreError, match=r"another\.zarr: holds no kernel that was saved: it has no damping"):
        NeuralFisherKernel.load(tmp_path / "another.zarr", log_density, weights(0))


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


def test_every_check_of_scikit_learn_passes(request):
    # a clone compiles the programs of its original again: here they are all kept, however small
    compiled = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "SCIPY_ARRAY_API": "1"}
    done = subprocess.run([sys.executable, "-W", "error", "-m", "tests.scikit_learn_checks"], capture_output=True,
                          text=True, cwd=request.config.rootpath, env=os.environ | compiled, timeout=900)
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert {check: found for check, found in status.items() if found != "passed"} == {}
    assert len(status) > 40


def bright_and_dark(n, seed=0):
    labels = np.arange(n) % 2
    return images(n, seed) * (0.6 + 0.4 * labels[:, None, None, None]).astype(np.float32), labels


def test_it_is_the_first_step_of_a_pipeline():
    x, labels = bright_and_dark(80)
    pipeline = make_pipeline(estimator(), StandardScaler(), LogisticRegression())
    assert pipeline.fit(x, labels).score(*bright_and_dark(40, 1)) > 0.9
    assert pipeline[:-1].get_feature_names_out()[-1] == f"neuralfisherkernel{RANK - 1}"


def test_model_samples_pass_through_a_pipeline():
    x, labels = bright_and_dark(40)
    pipeline = make_pipeline(estimator(), StandardScaler())
    pipeline.fit(x, labels, neuralfisherkernel__model_samples=images(60, 9))
    alone = estimator().fit(x, model_samples=images(60, 9))
    assert np.array_equal(pipeline[0].fisher_diagonal_, alone.fisher_diagonal_)


def test_a_search_over_rank_finds_that_one_component_is_too_few():
    x, labels = bright_and_dark(60)
    search = GridSearchCV(make_pipeline(estimator(scaling="unit"), LogisticRegression()),
                          {"neuralfisherkernel__rank": [1, 6]}, cv=2).fit(x, labels)
    assert search.best_params_ == {"neuralfisherkernel__rank": 6}
    assert search.best_estimator_[0].n_features_out_ == 6
    assert search.predict(images(3)).shape == (3,)


def test_a_smaller_rank_is_the_leading_columns_of_a_larger():
    few, many = (estimator(rank=rank).fit_transform(images(60)) for rank in (4, 9))
    assert few == pytest.approx(many[:, :4], abs=1e-4 * float(np.abs(many).max()))


def test_pickled_it_embeds_the_same():
    kept = estimator(key=jax.random.key(3)).fit(images(40))
    again = pickle.loads(pickle.dumps(kept))  # noqa: S301 (made here)
    assert np.array_equal(again.transform(images(5, 2)), kept.transform(images(5, 2)))


def test_an_example_has_a_shape_and_so_many_numbers(fitted, tmp_path):
    fitted.save(tmp_path / "kernel.zarr")
    for kernel in (fitted, NeuralFisherKernel.load(tmp_path / "kernel.zarr", log_density, weights(0))):
        assert (kernel.example_shape_, kernel.n_features_in_) == ((8, 8, 1), 64)
        with pytest.raises(ValueError, match=r"X has 128 features, but NeuralFisherKernel is expecting 64 features as "
                                             r"input: examples of shape \(8, 8, 2\) beside fitted ones of \(8, 8, 1\)"):
            kernel.transform(np.zeros((2, 8, 8, 2), np.float32))


def spoilt(number, row):
    x = images(90, 1)
    x[row, 3, 3, 0] = number
    return x


@pytest.mark.parametrize(("x", "message"), [
    (spoilt(np.nan, 70), "example 70 holds NaN or an infinity"),
    (spoilt(-np.inf, 3), "example 3 holds NaN or an infinity"),
    (jnp.asarray(spoilt(np.nan, 89)), "example 89 holds NaN or an infinity"),
    (images(90).astype(np.complex64), "examples are complex64; give real numbers"),
    (np.zeros(64, np.float32), r"images has shape \(64,\), .* images\[None\] if it is one example"),
    (images(0), r"0 sample\(s\) \(shape=\(0, 8, 8, 1\)\) while a minimum of 1 is required; images is empty"),
    (images(3)[:, :0], r"0 feature\(s\) .* images holds no numbers"),
    (images(1), "1 samples give no variance; give at least 2"),
])
def test_examples_that_cannot_be_are_refused_by_name(x, message):
    with pytest.raises(ValueError, match=message) as told:
        estimator().fit(x)
    assert "\n" not in str(told.value)


def test_new_examples_are_looked_at_too(fitted):
    with pytest.raises(ValueError, match="example 70 holds NaN"):
        fitted.transform(spoilt(np.nan, 70))
    with pytest.raises(ValueError, match="X has 128 features"):
        estimator().fit(images(20), model_samples=np.zeros((9, 8, 8, 2), np.float32))
