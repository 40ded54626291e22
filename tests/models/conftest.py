"""Each small network trained once a session, and its density and score in either precision."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfk.training import Trained
from tests.models.small_networks import examples, fit, key


class Scored(NamedTuple):
    value: np.ndarray
    score: dict[str, Any]


@pytest.fixture(scope="session")
def trained() -> Callable[[str], Trained]:
    """`trained(name)`: the network of that name after its training."""
    return cache(fit)


@pytest.fixture(scope="session")
def scored(trained) -> Callable[[str, str], Scored]:
    """`scored(name, dtype)`: s(x) and its gradient at one image, parameters and image of that dtype."""

    @cache
    def get(name: str, dtype: str) -> Scored:
        model = trained(name).model
        with jax.enable_x64(dtype == "float64"):
            params, x = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (model.params, examples(name)[0]))
            value, score = jax.jit(jax.value_and_grad(model.log_density))(params, x, key(0))
            return Scored(*jax.tree.map(np.asarray, (value, score)))

    return get


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield
