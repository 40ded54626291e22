"""Gradients whitened while they are made: the same numbers as whitening them afterwards, in float64, and where that is
the cheaper way only."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfk.fisher import factored, kronecker
from nfk.fisher.factored import FactoredGradient, Sides
from nfk.fisher.scores import Scores
from nfk.fisher.statistics import fisher_statistics
from nfk.fisher.vectors import FisherVectors
from nfk.models.convolution import unfolded_convolution

KEY = jax.random.key(0)


def sides(a: int, b: int, seed: int = 0, diagonal: str = "", dead: bool = True) -> Sides:
    """Symmetric matrices, or the diagonal of one; a row and a column that count as 0."""
    rng = np.random.default_rng(seed)
    made = []
    for size, name in ((a, "left"), (b, "right")):
        matrix = rng.normal(size=(size, size))
        made.append(jnp.asarray(rng.uniform(0.5, 2, size) if name == diagonal else matrix + matrix.T))
    alive = [np.ones(size) for size in (a, b)]
    if dead:
        alive[0][1] = alive[1][0] = 0
    return Sides(*made, *map(jnp.asarray, alive))


def whitened(gradient: np.ndarray, one: Sides) -> np.ndarray:
    """A (G * alive) B by its definition."""
    left, right = (np.diag(side) if side.ndim == 1 else np.asarray(side) for side in (one.left, one.right))
    matrix = gradient.reshape(len(left), len(right)) * np.outer(one.alive_left, one.alive_right)
    return (left @ matrix @ right).reshape(gradient.shape)


def dense(params, x, key):
    return jnp.sin(jnp.tanh(x.reshape(-1) @ params["w"]) @ params["v"]).sum()


def with_a_batch_axis(params, x, key):
    return jnp.sin(nn.Dense(5, use_bias=False).apply({"params": {"kernel": params["w"]}}, x.reshape(1, -1))
                   @ params["v"]).sum()


@jax.jit
def jitted(params, x, key):
    return jax.jit(dense)(params, x, key) + jnp.square(x).sum()


def through_relu(params, x, key):
    return jax.nn.logsumexp(jax.nn.relu(x.reshape(-1) @ params["w"]) @ params["v"])


DENSE = {"w": (36, 5), "v": (5, 3)}


def parameters(shapes, seed=3):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}


def both_ways(function, shapes, of, x):
    """(taken, the gradients, those whitened by their definition)."""
    params = parameters(shapes)
    numbers = {name: number for number, name in enumerate(sorted(shapes))}
    given = {numbers[name]: one for name, one in of.items()}
    gradient = FactoredGradient(function, params, x[0], KEY, given)
    found = jax.jit(jax.vmap(gradient, in_axes=(None, 0, None)))(params, x, KEY)
    plain = jax.vmap(jax.grad(function), in_axes=(None, 0, None))(params, x, KEY)
    taken = {name for name in of if numbers[name] in gradient.whitened}
    expected = {name: np.stack([whitened(np.asarray(one), of[name]) for one in rows]) if name in taken
                else np.asarray(rows) for name, rows in plain.items()}
    return taken, found, expected


@pytest.fixture
def x():
    with jax.enable_x64(True):
        yield jnp.asarray(np.random.default_rng(1).normal(size=(4, 6, 6, 1)))


@pytest.mark.parametrize("function", [dense, with_a_batch_axis, jitted, through_relu])
@pytest.mark.parametrize("diagonal", ["", "left", "right"])
def test_a_dense_layer(function, diagonal, x):
    of = {"w": sides(36, 5, 1, diagonal), "v": sides(5, 3, 2)}
    taken, found, expected = both_ways(function, DENSE, of, x)
    assert taken == {"w", "v"}
    for name in DENSE:
        assert np.asarray(found[name]) == pytest.approx(expected[name], rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("size, stride, taken", [(3, 3, {"kernel"}), (3, 1, set())])
def test_a_convolution_by_patches_of_few_places(size, stride, taken, x):
    """2 x 2 places, and 4 x 4 where the gradient is the cheaper: 16 (9^2 + 4^2) > 9 * 4 (9 + 4)."""
    def function(params, x, key):
        return jnp.sin(unfolded_convolution(x[None], params["kernel"], (stride, stride), "VALID")).sum()

    found_taken, found, expected = both_ways(function, {"kernel": (size, size, 1, 4)}, {"kernel": sides(9, 4)}, x)
    assert found_taken == taken
    assert np.asarray(found["kernel"]) == pytest.approx(expected["kernel"], rel=1e-12, abs=1e-12)


def twice(params, x, key):
    return dense(params, x, key) + jnp.square(params["w"]).sum()


def transposed(params, x, key):
    return jnp.sin(x.reshape(-1) @ params["w"] @ params["v"] @ params["v"].T @ params["w"].T).sum()


def in_a_loop(params, x, key):
    return jax.lax.fori_loop(0, 3, lambda _, value: jnp.sin(value @ params["w"] @ params["w"].T),
                             x.reshape(-1)).sum() + params["v"].sum()


@jax.jit
def identity(w):
    return w


def returned_by_a_call(params, x, key):
    return jnp.sin(x.reshape(-1) @ identity(params["w"])).sum() + params["v"].sum()


def between(params, x, key):
    return jnp.sin(x.reshape(-1) @ (2 * params["w"])).sum() + params["v"].sum()


def of_its_other_side(params, x, key):
    return jnp.sin(params["w"].T @ x.reshape(-1)).sum() + params["v"].sum()


@jax.custom_vjp
def doubled(value):
    return value


doubled.defvjp(lambda value: (value, None), lambda _, cotangent: (2 * cotangent,))


def with_rules_and_branches(params, x, key):
    """Gradients of its own, a branch, a scan, noise, and a recomputed part that holds one of the arrays."""
    hidden = jax.checkpoint(lambda value: jnp.tanh(value @ params["w"]))(x.reshape(-1))
    hidden = jax.lax.cond(hidden[0] > 0, jnp.sin, jnp.cos, doubled(hidden) + jax.random.normal(key, (5,)))
    hidden, _ = jax.lax.scan(lambda value, add: (jnp.sin(value + add), None), hidden, jnp.arange(3.0))
    return jnp.square(hidden @ params["v"]).sum()


@pytest.mark.parametrize("function, taken", [
    (with_rules_and_branches, {"v"}), (twice, {"v"}), (transposed, set()), (in_a_loop, set()),
    (returned_by_a_call, set()), (between, set()), (of_its_other_side, set())])
def test_any_other_use_is_left_as_it_is(function, taken, x):
    found_taken, found, expected = both_ways(function, DENSE, {"w": sides(36, 5), "v": sides(5, 3)}, x)
    assert found_taken == taken
    for name in DENSE:
        assert np.asarray(found[name]) == pytest.approx(expected[name], rel=1e-12, abs=1e-12)


def test_one_jitted_function_with_two_arrays(x):
    """Both calls run one program, in which the same equation stands for different arrays."""
    layer = jax.jit(lambda w, value: jnp.tanh(value @ w))

    def function(params, x, key):
        return layer(params["b"], layer(params["a"], x.reshape(-1))).sum()

    of = {"a": sides(36, 36, 1), "b": sides(36, 36, 2)}
    taken, found, expected = both_ways(function, {"a": (36, 36), "b": (36, 36)}, of, x)
    assert taken == {"a", "b"}
    for name in of:
        assert np.asarray(found[name]) == pytest.approx(expected[name], rel=1e-12, abs=1e-12)


def test_a_call_without_these_arrays_stays_one(x):
    """Calls within calls are not copied out: nine doublings would be 512 programs."""
    def doubled(times):
        within = doubled(times - 1) if times else jnp.sin
        return jax.jit(lambda value: within(within(value)))

    def function(params, x, key):
        return doubled(9)(x.reshape(-1) @ params["w"]).sum()

    params, of = parameters({"w": (36, 5)}), {0: sides(36, 5)}
    gradient = FactoredGradient(function, params, x[0], KEY, of)
    assert gradient.whitened == {0}
    program = jax.jit(gradient).lower(params, x[0], KEY).as_text()
    assert 0 < program.count("stablehlo.cosine") < 10


# --- functions with derivatives of their own ---


@jax.custom_vjp
def weighed(y, weights):
    return y * weights.sum()


def _weighed_backward(weights, cotangent):
    """Takes one weight after the other, by a number that is traced."""
    return jax.lax.fori_loop(0, len(weights), lambda place, sum: sum + cotangent * weights[place], 0 * cotangent), None


weighed.defvjp(lambda y, weights: (weighed(y, weights), weights), _weighed_backward)


def with_a_constant(params, x, key):
    return jnp.tanh(weighed(x.reshape(-1) @ params["w"], jnp.array([1.0, 2.0, 3.0])) @ params["v"]).sum()


def closing_over_the_image(params, x, key):
    @jax.custom_vjp
    def scaled(y):
        return y * x.sum()

    scaled.defvjp(lambda y: (y * x.sum(), None), lambda _, cotangent: (cotangent * x.sum(),))
    return jnp.tanh(scaled(x.reshape(-1) @ params["w"]) @ params["v"]).sum()


def test_constants_reach_a_derivative_as_arrays(x):
    taken, found, expected = both_ways(with_a_constant, DENSE, {"w": sides(36, 5), "v": sides(5, 3)}, x)
    assert taken == {"w", "v"}
    for name in DENSE:
        assert np.asarray(found[name]) == pytest.approx(expected[name], rel=1e-12, abs=1e-12)


def test_what_cannot_be_run_again_is_whitened_afterwards():
    images = np.random.default_rng(0).normal(size=(40, 6, 6, 1)).astype(np.float32)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32) / 8, parameters(DENSE))
    scores = Scores(closing_over_the_image, params)
    vectors = FisherVectors(scores, images, fisher_statistics(scores, images, kronecker=True), damping=0.1)
    assert vectors.whitening.sides()
    expected = np.asarray(scores.whitened(images, vectors.whitening.afterwards()))
    assert np.abs(expected).max() > 0
    assert np.array_equal(np.asarray(vectors.block(0)), expected)
    right = jnp.eye(expected.shape[1], 4)
    again = FisherVectors(Scores(closing_over_the_image, params), images, vectors.statistics, damping=0.1)
    assert np.asarray(again.image(0, right)) == pytest.approx(expected[:, :4], rel=1e-5, abs=1e-6)


def test_rows_of_several_outputs_are_whitened_afterwards(network):
    scores, found, images = network
    several = Scores(lambda params, x, key: Small().apply({"params": params}, x), scores.params, outputs="all", count=4)
    one = Scores(lambda params, x, key: Small().apply({"params": params}, x)[2], scores.params)
    whitening = FisherVectors(scores, images, found, damping=0.1).whitening
    assert np.asarray(several.whitened(images, whitening))[2::4] == pytest.approx(
        np.asarray(one.whitened(images, whitening)), rel=1e-4, abs=1e-4)


# --- Fisher vectors ---


class Small(nn.Module):
    """XLA's convolution, which is whitened afterwards, and two dense layers."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(3, (3, 3), name="conv")(x[None]))
        x = nn.relu(nn.Dense(8, name="wide")(x.reshape(1, -1)))
        return nn.Dense(4, name="last")(x)[0]


@pytest.fixture(scope="module")
def network():
    images = np.random.default_rng(0).normal(size=(56, 6, 6, 1)).astype(np.float32)
    params = Small().init(jax.random.key(1), images[0])["params"]
    scores = Scores(lambda params, x, key: jax.nn.logsumexp(Small().apply({"params": params}, x)), params)
    return scores, fisher_statistics(scores, images[:40], kronecker=True), images[40:]


@pytest.mark.parametrize("unit_rows", [False, True])
@pytest.mark.parametrize("largest", [2048, 20])
def test_rows_are_those_of_whitening_afterwards(network, unit_rows, largest, monkeypatch):
    """As near to float64's as those are; with a side that is whitened by its diagonal, too."""
    scores, found, images = network
    if largest != kronecker.LARGEST_SIDE:
        monkeypatch.setattr(kronecker, "LARGEST_SIDE", largest)
        found = fisher_statistics(scores, images, kronecker=True)
    vectors = FisherVectors(scores, images, found, damping=0.1, unit_rows=unit_rows)
    sides, paths = vectors.whitening.sides(), [entry.path for entry in scores.index]
    taken = FactoredGradient(scores.log_density, scores.params, jnp.asarray(images[0]), scores.key, sides).whitened
    assert "last/kernel" in {paths[number] for number in taken}
    exact, _ = vectors.sample64(len(images))
    afterwards = scores.whitened(images, vectors.whitening.afterwards())
    norm = np.linalg.norm(exact)
    assert np.linalg.norm(np.asarray(vectors.block(0)) - exact) < 1e-5 * norm
    assert np.linalg.norm(np.asarray(afterwards) - exact) < 1e-5 * norm


def test_it_is_used(network, monkeypatch):
    scores, found, images = network
    used = []
    product = factored._product
    monkeypatch.setattr(factored, "_product", lambda *given: used.append(given[1].shape) or product(*given))
    fresh = Scores(scores.log_density, scores.params)
    FisherVectors(fresh, images, found, damping=0.1).block(0)
    assert (8, 4) in used
