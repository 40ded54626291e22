"""The empirical neural tangent kernel of one and of several outputs, against the Jacobian one example at a time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfk import NeuralFisherKernel
from nfk.fisher.scores import ScoreError, Scores
from tests.fisher.networks import images, weights

N, M = 70, 5
NAMES = ("conv", "dense")


def net(dtype=np.float64):
    return {name: weights(0, dtype)[name] for name in NAMES}


def logits(params, x, key):
    """Five outputs of a strided convolution and a dense layer."""
    del key
    hidden = jax.lax.conv_general_dilated(x[None], params["conv"]["kernel"], (2, 2), "SAME",
                                          dimension_numbers=("NHWC", "HWIO", "NHWC"))
    hidden = jnp.tanh(hidden + params["conv"]["bias"][None, None, None, :])
    return hidden.reshape(-1) @ params["dense"]["kernel"] + params["dense"]["bias"]


def first(params, x, key):
    return logits(params, x, key)[0]


@pytest.fixture(scope="module")
def jacobian() -> np.ndarray:
    """(n, m, p) in float64"""
    with jax.enable_x64(True):
        of_one, key = jax.jit(jax.jacobian(logits)), jax.random.key(0)
        trees = [of_one(net(), jnp.asarray(x), key) for x in images(N, 1, np.float64)]
        return np.stack([np.concatenate([np.asarray(leaf).reshape(M, -1) for leaf in jax.tree.leaves(tree)], axis=1)
                         for tree in trees])


def kernel_of(jacobian, outputs) -> np.ndarray:
    """Row pairs' inner products, as the definition has them."""
    if outputs is None:
        return jacobian[:, 0] @ jacobian[:, 0].T
    if outputs == "trace":
        return sum(jacobian[:, j] @ jacobian[:, j].T for j in range(M))
    flat = jacobian.reshape(N * M, -1)
    return flat @ flat.T


def embedded(outputs, images64, **options):
    function = first if outputs is None else logits
    kernel = NeuralFisherKernel(function, net(), kernel="ntk", outputs=outputs, **{"rank": 6, "block": 32, **options})
    return kernel, kernel.fit_transform(images64)


@pytest.mark.parametrize("outputs", ["all", "trace"])
@pytest.mark.parametrize("block", [3, 70])
def test_rows_are_the_jacobian(jacobian, outputs, block):
    """In blocks smaller and larger than those computed together on a CPU."""
    with jax.enable_x64(True):
        scores = Scores(logits, net(), outputs=outputs, count=M)
        x = images(N, 1, np.float64)
        rows = np.concatenate([np.asarray(scores(x[start : start + block])) for start in range(0, N, block)])
    wanted = jacobian.reshape(N * M, -1) if outputs == "all" else jacobian.reshape(N, -1)
    assert np.max(np.abs(rows - wanted)) < 1e-10 * np.max(np.abs(wanted))


@pytest.mark.parametrize(("outputs", "strategy"), [
    (outputs, strategy) for outputs in ("all", "trace") for strategy in ("explicit", "gram", "stored", "stream")]
    + [(None, "stream"), ("all", "cogram")])
def test_factors_are_those_of_the_kernel_matrix(jacobian, outputs, strategy):
    with jax.enable_x64(True):
        fitted, rows = embedded(outputs, images(N, 1, np.float64), strategy=strategy, tolerance=1e-9, passes=30)
    values, vectors = np.linalg.eigh(kernel_of(jacobian, outputs))
    values, vectors = values[::-1][:6], vectors[:, ::-1][:, :6]
    # Rayleigh-Ritz values err by the square of a mode's residual, vectors by the residual over their gap
    assert fitted.singular_values_**2 == pytest.approx(values, rel=1e-10)
    rows = rows.reshape(-1, 6)
    assert np.abs(vectors.T @ (rows / np.sqrt(values))) == pytest.approx(np.eye(6), abs=1e-6)


@pytest.mark.parametrize("outputs", [None, "all", "trace"])
def test_at_full_rank_embeddings_have_the_kernel_for_inner_products(jacobian, outputs):
    rank = min(kernel_of(jacobian, outputs).shape[0], jacobian.shape[2])
    with jax.enable_x64(True):
        kernel, _ = embedded(outputs, images(N, 1, np.float64), strategy="explicit", rank=rank)
        rows = kernel.transform(images(N, 1, np.float64))
    assert rows.shape == ((N, M, kernel.n_features_out_) if outputs == "all" else (N, kernel.n_features_out_))
    flat, wanted = rows.reshape(-1, rows.shape[-1]), kernel_of(jacobian, outputs)
    assert np.max(np.abs(flat @ flat.T - wanted)) < 1e-10 * np.max(wanted)


def test_the_trace_is_the_sum_of_the_outputs_own_kernels(jacobian):
    """What `trace` factors is what `all` holds on the diagonals of its blocks."""
    every = kernel_of(jacobian, "all").reshape(N, M, N, M)
    assert np.einsum("ijkj->ik", every) == pytest.approx(kernel_of(jacobian, "trace"), rel=1e-10)


@pytest.mark.parametrize("outputs", ["all", "trace"])
def test_in_float32_with_blocks_that_cut_evenly_or_not(jacobian, outputs):
    x = images(N, 1)
    with jax.enable_x64(True):
        exact, rows = embedded(outputs, images(N, 1, np.float64))
    for block in (16, 1000):  # 3 and 70 examples
        found = NeuralFisherKernel(logits, net(np.float32), kernel="ntk", outputs=outputs, rank=6, block=block).fit(x)
        assert found.singular_values_ == pytest.approx(exact.singular_values_, rel=1e-5)
        assert found.transform(x) == pytest.approx(rows, abs=1e-3 * exact.singular_values_[0])


def test_one_part_of_the_parameters_and_back_from_disk(tmp_path, jacobian):
    x = images(N, 1)
    kernel = NeuralFisherKernel(logits, net(np.float32), kernel="ntk", outputs="all", rank=4, include=["dense/.*"])
    kernel.fit(x)
    part = jacobian[:, :, 4 + 36 :].reshape(N * M, -1)
    assert kernel.singular_values_ == pytest.approx(np.linalg.svd(part, compute_uv=False)[:4], rel=1e-5)
    kernel.save(tmp_path / "ntk.zarr")
    loaded = NeuralFisherKernel.load(tmp_path / "ntk.zarr", logits, net(np.float32))
    assert np.array_equal(loaded.transform(x[:3]), kernel.transform(x[:3]))


def test_a_score_that_is_not_finite_names_its_example():
    def normalised(params, x, key):
        return logits(params, x, key) / jnp.max(x)

    x = images(8)
    x[6] = 0
    with pytest.raises(ScoreError, match="example 6:"):
        NeuralFisherKernel(normalised, net(np.float32), kernel="ntk", outputs="all", rank=2).fit(x)


@pytest.mark.parametrize(("function", "options", "message"), [
    (logits, {}, r"returns an array of shape \(5,\), and outputs=None wants a scalar; say outputs='all' or"),
    (first, {"outputs": "all"}, r"outputs='all' wants a function that returns a vector \(m,\), not shape \(\); leave"),
    (logits, {"outputs": "trace", "strategy": "jvp"}, r"strategy=jvp takes functions of one output, not outputs="),
    (logits, {"outputs": "all", "kernel": "fisher"},
     r"outputs='all' goes with kernel='ntk'; kernel='fisher' is of a"),
])
def test_refusals(function, options, message):
    with pytest.raises(ValueError, match=message):
        NeuralFisherKernel(function, net(np.float32), **{"kernel": "ntk", "rank": 2, **options}).fit(images(8))


def test_samples_are_refused_where_there_are_no_statistics():
    with pytest.raises(ValueError, match="model_samples are for Fisher statistics, and kernel='ntk' has none"):
        NeuralFisherKernel(first, net(np.float32), kernel="ntk", rank=2).fit(images(8), model_samples=images(8))


@pytest.mark.parametrize("wrong, message", [
    ({"kernel": "NTK"}, r"kernel='NTK' must be one of 'fisher', 'ntk'"),
    ({"kernel": "ntk", "outputs": "every"}, r"outputs='every' must be one of None, 'all', 'trace'"),
])
def test_a_misspelt_kernel_or_output_is_refused_and_not_another_one(wrong, message):
    kernel = NeuralFisherKernel(lambda theta, x, key: theta @ x, jnp.ones(3), rank=1).set_params(**wrong)
    with pytest.raises(ValueError, match=message):
        kernel.fit(np.eye(3, dtype=np.float32))
