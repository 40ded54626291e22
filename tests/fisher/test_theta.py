"""A part of the parameters: its scores are columns of the whole's, and a pattern that hits nothing is told."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfk import NeuralFisherKernel
from nfk.fisher.parameters import parameter_index
from nfk.fisher.scores import Scores
from nfk.fisher.theta import ThetaError, choose
from nfk.fisher.whitening import nothing_done
from nfk.store import StoreError
from tests.fisher.networks import images, log_density, weights


def paths(tree) -> list[str]:
    return [entry.path for entry in parameter_index(tree)]


def columns(params, wanted) -> np.ndarray:
    return np.concatenate([np.arange(entry.offset, entry.offset + int(np.prod(entry.shape)))
                           for entry in parameter_index(params) if entry.path in wanted])


@pytest.mark.parametrize(("include", "exclude", "wanted"), [
    (None, [".*bias", "unused"], ["conv/kernel", "dense/kernel"]),
    (["conv/.*"], [], ["conv/bias", "conv/kernel"]),
    (["conv/.*", "dense/bias"], ["conv/bias"], ["conv/kernel", "dense/bias"]),
])
def test_scores_of_a_part_are_columns_of_the_whole(include, exclude, wanted):
    with jax.enable_x64(True):
        params, block = weights(0, np.float64), images(5, dtype=np.float64)
        theta = choose(log_density, params, include, exclude)
        assert paths(theta.params) == wanted
        found = np.asarray(Scores(theta.log_density, theta.params)(block))
        whole = np.asarray(Scores(log_density, params)(block))
    assert found == pytest.approx(whole[:, columns(params, wanted)], rel=1e-10, abs=1e-14)


def test_a_pattern_matches_the_whole_path():
    assert paths(choose(log_density, weights(0), ["conv/kernel"]).params) == ["conv/kernel"]
    with pytest.raises(ThetaError, match="include pattern 'conv' matches none"):
        choose(log_density, weights(0), ["conv"])


def test_the_whole_is_left_as_it_is():
    params = weights(0)
    theta = choose(log_density, params)
    assert theta.params is params and theta.log_density is log_density


def test_no_gradient_is_taken_in_a_constant():
    """Neither its products nor its rows are in the compiled program."""
    def shapes(theta):
        rows = jax.make_jaxpr(Scores(theta.log_density, theta.params)._whitened)
        size = sum(leaf.size for leaf in jax.tree.leaves(theta.params))
        return str(rows(theta.params, jnp.zeros((2, 8, 8, 1)), jax.random.key(0), nothing_done(size, jnp.float32)))

    assert "f32[2,64,5]" in shapes(choose(log_density, weights(0)))
    assert "f32[2,64,5]" not in shapes(choose(log_density, weights(0), exclude=["dense/kernel"]))


def test_in_float64_the_constants_are_so_too():
    theta = choose(log_density, weights(0), ["dense/.*"])
    block = images(3)
    with jax.enable_x64(True):
        found = np.asarray(Scores(theta.log_density, theta.params).in_float64(block.astype(np.float64)))
        whole = np.asarray(Scores(log_density, weights(0)).in_float64(block.astype(np.float64)))
    assert found == pytest.approx(whole[:, columns(weights(0), ["dense/bias", "dense/kernel"])], rel=1e-10)


def test_leaves_that_are_no_floats_are_constants():
    def counted(params, x, key):
        return log_density(params["net"], x, key) * params["steps"].astype(np.float32)

    params = {"net": weights(0), "steps": jnp.asarray(2), "name": "n", "nothing": None}
    theta = choose(counted, params)
    assert paths(theta.params) == [f"net/{path}" for path in paths(weights(0))]
    found = np.asarray(Scores(theta.log_density, theta.params)(images(2)))
    assert found == pytest.approx(2 * np.asarray(Scores(log_density, weights(0))(images(2))), rel=1e-6)


@pytest.mark.parametrize(("include", "exclude", "message"), [
    (["convs/.*"], [], r"include pattern 'convs/\.\*' matches none of 5 floating-point parameters; nearest: conv/"),
    (None, ["dense/scale"], r"exclude pattern 'dense/scale' matches none of 5 .* nearest: dense/"),
    (["(conv"], [], r"include pattern '\(conv' is no regular expression: missing \)"),
    ("conv/.*", [], r"include='conv/\.\*' is one string; give a list of patterns"),
    (None, [".*"], r"include=None and exclude=\['\.\*'\] leave none of 5 parameter arrays in theta; widen"),
    ([], [], r"include=\[\] and exclude=\[\] leave none of 5"),
])
def test_refusals(include, exclude, message):
    with pytest.raises(ThetaError, match=message) as refused:
        choose(log_density, weights(0), include, exclude)
    assert "\n" not in str(refused.value)


def test_arrays_of_no_number_alone_are_refused():
    with pytest.raises(ThetaError, match="theta is e/bias, e/kernel, of no number; widen include"):
        choose(log_density, {**weights(0), "e": {"kernel": jnp.zeros((0, 3)), "bias": jnp.zeros(0)}}, ["e/.*"])


def test_scalars_of_numpy_are_parameters_and_pythons_are_refused():
    x = jnp.ones(3)
    theta = choose(lambda params, x, key: params["a"] * x.sum() + params["b"].sum(), {"a": np.float32(2), "b": x})
    assert len(jax.tree.leaves(theta.params)) == 2
    with pytest.raises(ThetaError, match=r"params\['a'\] is a Python float; make it an array"):
        choose(lambda params, x, key: x.sum(), {"a": 2.0, "b": x})


def test_the_estimator_sees_the_chosen_alone_and_saves_which(tmp_path):
    kernel = NeuralFisherKernel(log_density, weights(0), rank=4, exclude=[".*bias", "unused"]).fit(images(40))
    assert len(kernel.mean_score_) == 3 * 3 * 4 + 64 * 5
    part = {"conv": {"kernel": weights(0)["conv"]["kernel"]}, "dense": {"kernel": weights(0)["dense"]["kernel"]}}

    def of_kernels(params, x, key):
        whole = weights(0, params["conv"]["kernel"].dtype)
        return log_density({"conv": whole["conv"] | params["conv"], "dense": whole["dense"] | params["dense"],
                            "unused": whole["unused"]}, x, key)

    by_hand = NeuralFisherKernel(of_kernels, part, rank=4).fit(images(40))
    assert kernel.transform(images(6, 2)) == pytest.approx(by_hand.transform(images(6, 2)), rel=1e-4, abs=1e-4)
    kernel.save(tmp_path / "part.zarr")
    loaded = NeuralFisherKernel.load(tmp_path / "part.zarr", log_density, weights(0))
    assert loaded.exclude == [".*bias", "unused"]
    assert np.array_equal(loaded.transform(images(6, 2)), kernel.transform(images(6, 2)))
    # another value of a parameter that is constant makes another kernel
    with pytest.raises(StoreError, match="was made from params"):
        other = weights(0)
        NeuralFisherKernel.load(tmp_path / "part.zarr", log_density, other | {"unused": other["unused"] + 1})
