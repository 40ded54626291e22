"""Scores by the fast path against plain gradients, one example at a time in float64, for every kind of layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.flatten_util import ravel_pytree

from nfk.fisher.scores import Scores
from nfk.models.convolution import Conv, DoublingConvolution

N = 5
KEY = jax.random.key(0, impl="rbg")
IMAGE, SEQUENCE = (6, 6, 4), (5, 8)


class Case(NamedTuple):
    log_density: Callable[[Any, Any, Any], Any]
    params: Any
    examples: np.ndarray


class Tied(nn.Module):
    """One kernel used twice, and a third time transposed."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        dense = nn.Dense(x.shape[-1])
        return dense(nn.tanh(dense(x))) @ dense.variables["params"]["kernel"].T


class Embedded(nn.Module):
    """Tokens embedded, mixed, and read out by the same table."""

    @nn.compact
    def __call__(self, tokens: Any) -> Any:
        table = nn.Embed(7, 6)
        return table.attend(nn.tanh(nn.Dense(6)(table(tokens))))


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x))


class Spectral(nn.Module):
    @nn.compact
    def __call__(self, x: Any, update_stats: bool = False) -> Any:
        x = nn.SpectralNorm(Conv(6, (3, 3)))(x, update_stats=update_stats)
        return nn.SpectralNorm(nn.Dense(5))(nn.tanh(x), update_stats=update_stats)


def images(count: int = N) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, *IMAGE)).astype(np.float32)


def sequences() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(N, *SEQUENCE)).astype(np.float32)


def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 7, (N, 5)).astype(np.int32)


def potential(outputs: Any) -> Any:
    """A scalar that no output leaves alone, with slopes of its own for each."""
    flat = outputs.reshape(-1)
    return jax.nn.logsumexp(flat * jnp.linspace(0.5, 1.5, flat.size, dtype=flat.dtype))


def of_module(module: nn.Module, examples: np.ndarray, **training: Any) -> Case:
    """The module's potential in evaluation mode, all that is not `params` a constant in the dtype of params;
    `training` is what its call takes to set such constants by a batch of other examples."""
    variables = jax.jit(module.init)(KEY, jnp.asarray(examples))
    # off zero and one, where biases and scales begin and some terms of the gradient vanish
    leaves, structure = jax.tree.flatten(variables["params"])
    rng = np.random.default_rng(1)
    params = structure.unflatten([leaf + rng.normal(size=leaf.shape, scale=0.2).astype(np.float32)
                                  for leaf in leaves])
    constants: Any = {}
    if training:
        set_by = partial(module.apply, mutable=["batch_stats"], **training)
        _, constants = jax.jit(set_by)(variables | {"params": params}, jnp.asarray(images(16)))

    def log_density(params: Any, x: Any, key: Any) -> Any:
        del key
        fixed = in_dtype(constants, params)
        x = x if jnp.issubdtype(x.dtype, jnp.integer) else in_dtype(x, params)
        # flax's own norms and tables mix float32 into float64, which the tests' strictness elsewhere refuses
        with jax.numpy_dtype_promotion("standard"):
            return potential(module.apply({"params": params, **fixed}, x[None]))

    return Case(log_density, params, examples)


def in_dtype(tree: Any, params: Any) -> Any:
    dtype = jax.tree.leaves(params)[0].dtype
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


class Normalised(nn.Module):
    """Batch norm between two layers; its running averages in evaluation."""

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.5)
        return nn.Dense(5)(nn.tanh(norm(Conv(6, (3, 3))(x))))


def chain(*layers: Any) -> nn.Module:
    return nn.Sequential([*layers, nn.tanh, nn.Dense(5)])


def recurrent() -> Case:
    """h <- tanh(h A + x B), one step a row of the sequence: weights shared over time."""
    rng = np.random.default_rng(2)
    params = {name: jnp.asarray(rng.normal(size=shape, scale=0.4), jnp.float32)
              for name, shape in (("a", (6, 6)), ("b", (8, 6)), ("start", (6,)))}

    def log_density(params: Any, x: Any, key: Any) -> Any:
        del key

        def step(h: Any, row: Any) -> tuple[Any, Any]:
            h = jnp.tanh(h @ params["a"] + row @ params["b"])
            return h, h

        return potential(lax.scan(step, params["start"], in_dtype(x, params))[1])

    return Case(log_density, params, sequences())


def pytree() -> Case:
    """No module: a list, a tuple, a scalar and a matrix in one tree."""
    rng = np.random.default_rng(3)
    params = [(jnp.asarray(rng.normal(size=(8, 3)), jnp.float32), jnp.asarray(0.7, jnp.float32)),
              {"c": jnp.asarray(rng.normal(size=3), jnp.float32)}]

    def log_density(params: Any, x: Any, key: Any) -> Any:
        del key
        (a, temperature), rest = params
        return temperature * potential(jnp.sin(in_dtype(x, params) @ a) * rest["c"][None, :])

    return Case(log_density, params, sequences())


def nnx_module() -> Case:
    """A flax nnx module with batch norm: its graph and its statistics are constants, its `nnx.Param` theta."""
    rngs = nnx.Rngs(0)
    module = nnx.Sequential(nnx.Conv(4, 6, (3, 3), rngs=rngs), nnx.BatchNorm(6, use_running_average=True, rngs=rngs),
                            nnx.tanh, nnx.Linear(6, 5, rngs=rngs))
    module.layers[1].mean[...] = jnp.linspace(-0.5, 0.5, 6)
    module.layers[1].var[...] = jnp.linspace(0.5, 2, 6)
    graph, params, constants = nnx.split(module, nnx.Param, ...)

    def log_density(params: Any, x: Any, key: Any) -> Any:
        del key
        return potential(nnx.merge(graph, params, in_dtype(constants, params))(in_dtype(x, params)[None]))

    return Case(log_density, params, images())


CASES: dict[str, Callable[[], Case]] = {
    "dense": lambda: of_module(chain(nn.Dense(6)), images()),
    "conv strided": lambda: of_module(chain(Conv(6, (3, 3), (2, 2))), images()),
    "conv dilated": lambda: of_module(chain(Conv(6, (3, 3), kernel_dilation=2)), images()),
    "conv grouped": lambda: of_module(chain(Conv(6, (3, 3), feature_group_count=2)), images()),
    "conv depthwise": lambda: of_module(chain(Conv(4, (3, 3), feature_group_count=4)), images()),
    "conv transposed": lambda: of_module(chain(nn.ConvTranspose(6, (4, 4), (2, 2))), images()),
    "conv doubling": lambda: of_module(chain(DoublingConvolution(3)), images()),
    "batch norm": lambda: of_module(Normalised(), images(), train=True),
    "group norm": lambda: of_module(chain(Conv(6, (3, 3)), nn.GroupNorm(num_groups=2)), images()),
    "layer norm": lambda: of_module(chain(Conv(6, (3, 3)), nn.LayerNorm()), images()),
    "spectral norm": lambda: of_module(Spectral(), images(), update_stats=True),
    "weight sharing": lambda: of_module(Tied(), sequences()),
    "embedding": lambda: of_module(Embedded(), tokens()),
    "attention": lambda: of_module(Attention(), sequences()),
    "recurrent": recurrent,
    "pytree": pytree,
    "nnx": nnx_module,
}


class Rows(NamedTuple):
    plain: np.ndarray
    fast: np.ndarray
    fast_float32: np.ndarray


def one_by_one(case: Case) -> np.ndarray:
    """jax.grad at each example alone, parameters and examples in float64."""
    params = jax.tree.map(partial(jnp.asarray, dtype=jnp.float64), case.params)
    gradient = jax.jit(jax.grad(case.log_density))
    return np.stack([ravel_pytree(gradient(params, jnp.asarray(x), KEY))[0] for x in in_float64(case.examples)])


def in_float64(examples: np.ndarray) -> np.ndarray:
    return examples if np.issubdtype(examples.dtype, np.integer) else examples.astype(np.float64)


@pytest.fixture(scope="module", params=list(CASES))
def rows(request) -> Rows:
    case = CASES[request.param]()
    scores = Scores(case.log_density, case.params, KEY)
    float32 = np.asarray(scores(case.examples))
    with jax.enable_x64(True):
        return Rows(one_by_one(case), np.asarray(scores.in_float64(in_float64(case.examples))), float32)


def relative_errors(found: np.ndarray, exact: np.ndarray) -> np.ndarray:
    return np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1)


def test_rows_in_float64_are_plain_gradients(rows):
    assert rows.fast.dtype == rows.plain.dtype == np.float64
    assert rows.fast.shape == rows.plain.shape
    assert relative_errors(rows.fast, rows.plain).max() < 1e-10


def test_rows_in_float32_are_the_float64_ones_to_round_off(rows):
    assert rows.fast_float32.dtype == np.float32
    assert relative_errors(rows.fast_float32, rows.plain).max() < 1e-4


def test_examples_have_rows_of_their_own_that_reach_almost_every_parameter(rows):
    """Else two wrong paths could agree on zeros. (An embedding's unread rows of the table may stay at rest.)"""
    assert np.mean(np.any(rows.plain != 0, axis=0)) > 0.9
    assert min(np.linalg.norm(a - b) for i, a in enumerate(rows.plain) for b in rows.plain[:i]) > 1e-3
