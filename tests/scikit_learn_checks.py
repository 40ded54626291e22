"""scikit-learn's own checks of an estimator, by `python -m tests.scikit_learn_checks`: {check: status} as JSON.

They call it as a careless user would, with nothing checking the types of arguments. Their rows are of 1 to 20 numbers,
so the function takes rows of any width.
"""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
from sklearn.utils.estimator_checks import check_estimator

from nfk import NeuralFisherKernel


def any_width(params, x, key):
    """Six units, each with one slope and one offset for all numbers of x; none saturates."""
    del key
    seen = jnp.arcsinh(params["slope"][:, None] * x.astype(jnp.float32)[None, :] + params["offset"][:, None])
    return jnp.sum(jnp.mean(seen, axis=1) ** 2)


def main() -> None:
    slope, offset = jax.random.normal(jax.random.key(0), (2, 6))
    results = check_estimator(NeuralFisherKernel(any_width, {"slope": slope, "offset": offset}, rank=2), on_fail=None)
    print(json.dumps({f"{number} {result['check_name']}": result["status"] if result["exception"] is None else
                      f"{result['status']}: {result['exception']}" for number, result in enumerate(results)}))


if __name__ == "__main__":
    main()
