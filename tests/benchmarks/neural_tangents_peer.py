"""neural-tangents' empirical kernel of a network, timed; `neural_tangents.py` runs it in an environment of its own.

    python -I tests/benchmarks/neural_tangents_peer.py network.npz   # -I: or the driver would shadow the library

Prints what is ready, all compiled: tiles tried, failures, versions. Then every label read from the input, such as
"jacobian_contraction whitened", is run once and answered by its seconds and the kernel's leading eigenvalues, so that
the driver can do its own work in between.

Two kernels. `plain`: g(x)^T g(y) in the parameters, what the library is made for. `whitened`: the same of
s(theta + w * phi) in phi at 0, whose gradient is w * g, as in our Fisher vectors. Neither is centred (Z = 0): the
library has no way to take the mean score away. Every implementation gets what it is quickest with: tiles of 16 x 16 up
to n x n, on and above the diagonal only, the parameters as an argument or as constants.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import sys
import time
import types
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import sklearn
from jax import lax
from jax._src import config, source_info_util
from jax.interpreters import ad
from sklearn.decomposition import TruncatedSVD
from threadpoolctl import threadpool_limits

sys.modules["neural_tangents.experimental"] = types.ModuleType("experimental")  # it alone needs TensorFlow
ad.config, ad.source_info_util = config.config, source_info_util  # structured derivatives look for them there
import neural_tangents as nt  # noqa: E402

Params = dict[str, Any]
TILES = (16, 64, 256)
LONGEST_S = 30.0
"""A kernel that would take longer is timed on its first row of tiles"""


class Run(NamedTuple):
    tile: Callable[[Any, Any], Any]
    """the kernel of two blocks of images, or of one where the other is None"""
    size: int
    tried: dict[int, float]
    """seconds of a whole kernel by the size of its tiles, estimated from one tile on the diagonal and one beside it"""


# --- the networks, as in nfk.models ---


def convolved(params: Params, layer: str, kernel: Any, x: Any, stride: int, padding: str) -> Any:
    out = lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return out + params[f"{layer}/bias"]


def lenet5(params: Params, x: Any) -> Any:
    for layer, padding in (("conv_0", "SAME"), ("conv_1", "VALID")):
        x = jax.nn.relu(convolved(params, layer, params[f"{layer}/kernel"], x, 1, padding))
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = x.reshape(len(x), -1)
    for layer in ("dense_0", "dense_1"):
        x = jax.nn.relu(x @ params[f"{layer}/kernel"] + params[f"{layer}/bias"])
    return jax.nn.logsumexp(x @ params["dense_2/kernel"] + params["dense_2/bias"], axis=1)


def discriminator(params: Params, x: Any, sides: dict[str, tuple[Any, Any]]) -> Any:
    """Every kernel W enters as W / (v^T W u); `sides` has the vs and us, constants to every gradient."""
    def normed(layer: str) -> Any:
        kernel, (v, u) = params[f"{layer}/kernel"], sides[layer]
        return kernel / (v @ kernel.reshape(-1, kernel.shape[-1]) @ u.T)[0, 0]

    x = 2 * x - 1
    for layer in ("conv_0", "conv_1", "conv_2"):
        x = jax.nn.leaky_relu(convolved(params, layer, normed(layer), x, 2, "SAME"), 0.2)
    return (x.reshape(len(x), -1) @ normed("dense") + params["dense/bias"])[:, 0]


def power_step(kernel: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """v and u after one power iteration from the stored u, as the spectral norm takes them."""
    matrix = kernel.reshape(-1, kernel.shape[-1])
    v = u @ matrix.T
    v /= np.linalg.norm(v)
    return v, v @ matrix / np.linalg.norm(v @ matrix)


# --- the kernel ---


def quickest(implementation: Any, potential: Callable[..., Any], params: Params, images: Any) -> Run:
    """The quickest tiles: larger ones until they no longer help, since what some implementations hold grows with
    their square."""
    kernel = nt.empirical_ntk_fn(potential, trace_axes=(), vmap_axes=0, implementation=implementation)
    given, constant = jax.jit(kernel), jax.jit(lambda x, y: kernel(x, y, params))
    ways = (lambda x, y: given(x, y, params), constant)
    found, tried = None, {}
    for size in [size for size in TILES if size < len(images) and len(images) % size == 0] + [len(images)]:
        tried[size], way = min((estimated(way, size, images), index) for index, way in enumerate(ways))
        if tried[size] > min(tried.values()):
            break
        found = Run(ways[way], size, tried)
    return found


def estimated(tile: Callable[[Any, Any], Any], size: int, images: Any) -> float:
    def second(*blocks: Any) -> float:
        for _ in range(2):
            started = time.perf_counter()
            jax.block_until_ready(tile(*blocks))
        return time.perf_counter() - started

    tiles = len(images) // size
    beside = second(images[:size], images[size : 2 * size]) if tiles > 1 else 0.0
    return tiles * second(images[:size], None) + tiles * (tiles - 1) / 2 * beside


def timed(run: Run, images: Any, k: int) -> dict[str, Any]:
    """One kernel and its truncated SVD."""
    n, size, extrapolated = len(images), run.size, run.tried[run.size] > LONGEST_S
    started = time.perf_counter()
    kernel = np.zeros((n, n), np.float32)
    for i in range(0, size if extrapolated else n, size):
        for j in range(i, n, size):
            tile = np.asarray(run.tile(images[i : i + size], None if i == j else images[j : j + size]))
            kernel[i : i + size, j : j + size], kernel[j : j + size, i : i + size] = tile, tile.T
    seconds = time.perf_counter() - started
    if extrapolated:  # the first row has n / size of the (n / size) (n / size + 1) / 2 tiles
        return {"kernel_s": seconds * (n // size + 1) / 2, "svd_s": 0.0, "extrapolated": True}
    started = time.perf_counter()
    with threadpool_limits(1):  # quicker than on two threads, for matrices as small as these
        values = TruncatedSVD(k, random_state=0, n_iter=10).fit(kernel).singular_values_
    return {"kernel_s": seconds, "svd_s": time.perf_counter() - started, "extrapolated": False,
            "eigenvalues": values.tolist()}


def main() -> None:
    with np.load(sys.argv[1]) as file:
        kept = {name: file[name] for name in file.files}
    theta, weight, first = ({name.split("/", 1)[1]: value for name, value in kept.items() if name.startswith(kind)}
                            for kind in ("theta/", "weight/", "u/"))
    sides = {layer: power_step(theta[f"{layer}/kernel"], u) for layer, u in first.items()}
    images = jnp.asarray(kept["images"])

    def potential(params: Params, x: Any) -> Any:
        return discriminator(params, x, sides) if sides else lenet5(params, x)

    def whitened(phi: Params, x: Any) -> Any:
        return potential({name: theta[name] + weight[name] * phi[name] for name in phi}, x)

    kernels = {"plain": (potential, jax.tree.map(jnp.asarray, theta)),
               "whitened": (whitened, jax.tree.map(jnp.zeros_like, theta))}
    runs: dict[str, Run] = {}
    failures: dict[str, str] = {}
    for implementation, kernel in itertools.product(nt.NtkImplementation, kernels):
        label = f"{implementation.name.lower()} {kernel}"
        try:
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():  # AUTO prints its counts
                warnings.simplefilter("ignore")
                runs[label] = quickest(implementation, *kernels[kernel], images)
        except Exception as reason:  # whatever it is, the others go on
            failures[label] = f"{type(reason).__name__}: {reason}".splitlines()[0][:200]
    print(json.dumps({
        "tried": {label: run.tried for label, run in runs.items()}, "failures": failures,
        "score_error": float(np.abs(potential(theta, images[: len(kept["scores"])]) - kept["scores"]).max()),
        "versions": {"neural-tangents": nt.__version__, "jax": jax.__version__, "numpy": np.__version__,
                     "scikit-learn": sklearn.__version__}}), flush=True)
    for line in sys.stdin:
        print(json.dumps(timed(runs[line.strip()], images, int(kept["k"]))), flush=True)


if __name__ == "__main__":
    main()
