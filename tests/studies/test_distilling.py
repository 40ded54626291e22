"""Each transfer loss against the number worked out by hand, and the laws that tell it from its neighbours."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfk.studies.distilling.attention import AttentionTransfer, attention_distance, attention_map
from nfk.studies.distilling.candidates import candidates
from nfk.studies.distilling.fisher_kernel import FisherKernel, cosine_distance, squared_distance, unit_size
from nfk.studies.distilling.fitnet import Hint, hint_distance
from nfk.studies.distilling.hinton import SoftTargets, softened_divergence
from nfk.studies.distilling.seen import Maps, Seen, averaged, compared, map_shapes, paired
from nfk.studies.distilling.selectivity import SelectivityTransfer, discrepancy
from nfk.studies.distilling.variational import VariationalInformation, negative_log_likelihood
from nfk.study_params import DistillationParams


def array(*values) -> jnp.ndarray:
    return jnp.asarray(values, jnp.float32)


def random_map(seed: int, channels: int, count: int = 3) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, 4, 5, channels)), jnp.float32)


def near(value, **tolerance):
    return pytest.approx(np.asarray(value), **tolerance)


def test_the_embedding_is_brought_to_size_by_one_number():
    scaled = unit_size(np.array([[3.0, 1.0], [-3.0, 1.0]]))
    assert scaled == pytest.approx(np.array([[3.0, 1.0], [-3.0, 1.0]]) / math.sqrt(5))
    assert np.all(unit_size(np.zeros((2, 2))) == 0)


def test_distances_to_the_embedding():
    head, embedding = array([1, 0], [3, 4]), array([0, 2], [4, 3])
    assert squared_distance(head, embedding) == pytest.approx((1 + 4 + 1 + 1) / 4)
    assert cosine_distance(head, embedding) == pytest.approx((1 + (1 - 24 / 25)) / 2)
    assert cosine_distance(7 * head, embedding) == near(cosine_distance(head, embedding), rel=1e-6)
    assert np.isfinite(jax.grad(cosine_distance)(jnp.zeros((2, 2)), embedding)).all()


def test_soft_targets_at_a_temperature():
    """Teacher (2 log 3, 0) at T = 2: (3/4, 1/4); student (0, 0): (1/2, 1/2)."""
    student, teacher = array([0, 0]), array([2 * math.log(3), 0])
    by_hand = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    assert softened_divergence(student, teacher, 2.0) == pytest.approx(by_hand, rel=1e-5)
    assert softened_divergence(teacher, teacher, 3.0) == pytest.approx(0, abs=1e-7)


def test_soft_targets_move_as_the_cross_entropy_with_them_does():
    student, teacher, hot = array([0.3, -1, 2], [1, 0, 0]), array([2, 1, 0], [0, 3, -1]), 4.0

    def cross_entropy(logits):
        return -hot**2 * jnp.mean(jnp.sum(jax.nn.softmax(teacher / hot) * jax.nn.log_softmax(logits / hot), axis=1))

    moved = jax.jit(jax.grad(lambda logits: softened_divergence(logits, teacher, hot)))(student)
    assert moved == near(jax.jit(jax.grad(cross_entropy))(student), abs=1e-6)


def test_hint():
    regressed, hint = array([[[1, 2]], [[0, 0]]])[None, 0], array([[[0, 0]], [[0, 4]]])[None, 0]
    assert hint_distance(regressed, hint) == pytest.approx((1 + 4 + 0 + 16) / 2 / 4)


def test_attention_is_the_energy_of_each_place():
    maps = array([[[1, 1], [0, 2]], [[2, 0], [0, 0]]])[None, 0]  # one image of 2 x 2 places, two channels
    assert attention_map(maps) == pytest.approx(np.array([[2, 4, 4, 0]]) / 6)
    other = array([[[1], [0]], [[0], [0]]])[None, 0]
    squares = (1 / 3 - 1) ** 2 + 4 / 9 + 4 / 9
    assert attention_distance(maps, other) == pytest.approx(squares / 4 / 2)
    assert attention_distance(3 * maps, maps) == pytest.approx(0, abs=1e-12)


def test_neuron_selectivity():
    """Two student channels at right angles, one teacher channel along the first: k(s, s') has mean 1/2, k(t, t') is 1,
    k(s, t) has mean 1/2."""
    student, teacher = array([[[2, 0], [0, 3]]])[None, 0], array([[[5], [0]]])[None, 0]
    assert discrepancy(student, teacher) == pytest.approx((0.5 + 1 - 2 * 0.5) / 2)
    diagonal = array([[[1], [1]]])[None, 0]  # <s, t>^2 = 1/2 for both
    assert discrepancy(student, diagonal) == pytest.approx((0.5 + 1 - 2 * 0.5) / 2)
    assert discrepancy(teacher, -7 * teacher) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_neuron_selectivity_is_the_distance_of_mean_outer_products(seed):
    """<x, y>^2 is the inner product of x x^T and y y^T."""
    student, teacher = random_map(seed, 4), random_map(seed + 9, 6)

    def mean_outer(image):
        points = np.asarray(image, np.float64).reshape(-1, image.shape[-1])
        points /= np.linalg.norm(points, axis=0)
        return points @ points.T / points.shape[1]

    apart = [np.sum((mean_outer(ours) - mean_outer(theirs)) ** 2)
             for ours, theirs in zip(student, teacher, strict=True)]
    assert discrepancy(student, teacher) == pytest.approx(np.mean(apart) / 2, rel=1e-4)


def test_likelihood_is_the_normal_one():
    from scipy.stats import norm

    mean, teacher, spread = random_map(0, 2), random_map(1, 2), array(0.5, -1)
    variance = np.log1p(np.exp(np.asarray(spread))) + 1e-5
    by_scipy = -norm.logpdf(np.asarray(teacher), np.asarray(mean), np.sqrt(variance)).mean() - math.log(2 * math.pi) / 2
    assert negative_log_likelihood(mean, teacher, spread) == pytest.approx(by_scipy, rel=1e-5)


def test_variances_begin_at_five():
    seen = a_batch()
    weights = jax.jit(VariationalInformation().init)(jax.random.key(0), seen)
    spread = weights["params"]["pair_1"]["spread"]
    assert np.log1p(np.exp(spread)) + 1e-5 == pytest.approx(np.full(6, 5.0), rel=1e-5)


def a_batch() -> Seen:
    maps = tuple(Maps(random_map(place, 4), random_map(place + 5, 4 + 2 * place)) for place in range(3))
    return Seen(maps, jnp.ones((3, 7)), jnp.zeros((3, 2)), array([1, 0], [0, 1], [2, 0]), jnp.ones((3, 5)))


@pytest.mark.parametrize("module, expected", [
    (SoftTargets(2.0), lambda seen, own: softened_divergence(seen.logits, seen.teacher_logits, 2.0)),
    (AttentionTransfer(), lambda seen, own: sum(attention_distance(*maps) for maps in seen.maps)),
    (SelectivityTransfer(), lambda seen, own: sum(discrepancy(*maps) for maps in seen.maps)),
    (Hint(), lambda seen, own: hint_distance(
        seen.maps[1].student @ own["regressor"]["kernel"], seen.maps[1].teacher)),
    (FisherKernel("l2"), lambda seen, own: squared_distance(seen.features @ own["head"]["kernel"], seen.embedding)),
    (FisherKernel("cosine"), lambda seen, own: cosine_distance(seen.features @ own["head"]["kernel"], seen.embedding)),
])
def test_what_each_method_compares(module, expected):
    seen = a_batch()
    weights = jax.jit(module.init)(jax.random.key(0), seen)
    assert module.apply(weights, seen) == near(expected(seen, weights.get("params")), rel=1e-5)


def test_maps_are_averaged_over_equal_parts():
    row = jnp.arange(6, dtype=jnp.float32).reshape(1, 1, 6, 1)
    assert averaged(row, (1, 2)).ravel() == pytest.approx([1, 4])
    # 6 places into 4: one and a half each
    assert averaged(row, (1, 4)).ravel() == pytest.approx([1 / 3, 5 / 3, 10 / 3, 14 / 3])


def test_layers_are_paired_by_size():
    wide = {"a": (28, 28, 16), "b": (14, 14, 32), "c": (7, 7, 64)}
    lenet = {"conv_0": (28, 28, 6), "pool_0": (14, 14, 6), "conv_1": (10, 10, 16), "pool_1": (5, 5, 16)}
    assert paired(wide, lenet) == (("a", "conv_0"), ("b", "pool_0"), ("c", "pool_1"))
    assert paired(lenet, wide) == (("conv_0", "a"), ("pool_0", "b"), ("pool_1", "c"))
    ours, theirs = {"pool_1": jnp.ones((2, 5, 5, 3))}, {"c": jnp.ones((2, 7, 7, 4))}
    maps, = compared([("pool_1", "c")], ours, theirs)
    assert (maps.student.shape, maps.teacher.shape) == ((2, 5, 5, 3), (2, 5, 5, 4))


def test_the_last_layer_of_each_size_is_compared():
    def activations(x):
        half = x[:, ::2, ::2]
        return {"z": x, "y": x + 1, "b": half, "a": 2 * half, "logits": x.mean(axis=(1, 2))}

    assert map_shapes(activations, (8, 8, 3)) == {"y": (8, 8, 3), "a": (4, 4, 3)}


def test_the_grid_has_every_setting_once():
    params = DistillationParams(family="teacher", alphas=(0.2, 0.7), temperatures=(1.0, 3.0), strengths=(0.5, 2.0))
    grid = candidates(params)
    assert [candidate.method for candidate in grid] == [
        "student", *["nfk-l2"] * 2, *["nfk-cosine"] * 2, *["kd"] * 4, *["fitnet"] * 2, *["at"] * 2, *["nst"] * 2,
        *["vid"] * 2]
    kd = [candidate for candidate in grid if candidate.method == "kd"]
    assert [(one.cross_entropy, one.transfer, one.module.temperature) for one in kd] == [
        (0.2, 0.8, 1.0), (0.2, 0.8, 3.0), (0.7, pytest.approx(0.3), 1.0), (0.7, pytest.approx(0.3), 3.0)]
    at = [candidate for candidate in grid if candidate.method == "at"]
    assert [(one.cross_entropy, one.transfer, one.settings) for one in at] == [
        (1.0, 500.0, {"beta": 500.0}), (1.0, 2000.0, {"beta": 2000.0})]
