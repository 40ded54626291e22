"""The numerical core against its peers and against itself: speed, memory, error.

    make bench            # everything that a laptop can do, about an hour; kept in results/core.json
    python -m tests.benchmarks.core speed gram auto transform error growth peers
    python -m tests.benchmarks.core --table   # the README's tables, from what was kept

Every ratio is of medians of three interleaved runs in one process, compiled beforehand, on the same blocks of the same
images. The paper's algorithm (`jvp`, 11 steps of a product with V and one with V^T, l = k + 10) costs the same for
every step and every example, so one step on a few hundred examples is timed and multiplied; `error` runs it whole.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from nfk.fisher import strategies
from nfk.fisher.products import JacobianProducts
from nfk.fisher.scores import Scores
from nfk.fisher.statistics import fisher_statistics
from nfk.fisher.vectors import FisherVectors
from nfk.linalg.rows import block_count, image_pass
from nfk.linalg.subspace import DenseProducts, subspace_iteration
from nfk.memory import peak_bytes
from nfk.models import convolution
from tests.benchmarks import networks
from tests.benchmarks.environment import environment

RESULTS = Path(__file__).parent / "results" / "core.json"
DAMPING, SAMPLES, PASSES = 1e-3, 512, 5
PAPER_STEPS = 11
KEY = jax.random.key(0)


# --- what is measured on ---


def fisher_vectors(
    name: str, n: int, block: int, trained: bool = True, *, kronecker: bool = False
) -> FisherVectors:
    """The network's Fisher vectors of n images, centred and whitened by 512 images of their own kind; `kronecker`: as
    the pipeline's default has them, each layer whitened as a whole and every vector of unit length."""
    net = networks.network(name, trained)
    scores = Scores(net.log_density, net.params, KEY)
    images = networks.images(name, n + SAMPLES)
    found = fisher_statistics(scores, images[n:], block=min(block, 64 if scores.size > 10**6 else 256),
                              kronecker=kronecker)
    return FisherVectors(scores, images[:n], found, damping=0.1 if kronecker else DAMPING, unit_rows=kronecker,
                         block_rows=block)


def in_float64(vectors: FisherVectors) -> FisherVectors:
    """The same matrix, centred and whitened by the same statistics, from gradients in float64; under x64."""
    images = np.concatenate([np.asarray(vectors.examples(index)) for index in range(block_count(vectors))])
    return FisherVectors(vectors.scores.in_float64, images.astype(np.float64), vectors.statistics, damping=DAMPING,
                         block_rows=vectors.block_rows)


def whole(vectors: FisherVectors) -> np.ndarray:
    return np.concatenate([np.asarray(vectors.block(index)) for index in range(block_count(vectors))])


KINK = 1e-4
"""Rows in two precisions that differ by more of their norm differ by more than rounding: some unit of the network is so
near its kink that round-off decides the side, and the gradient is another."""


def off_kinks(name: str, n: int, block: int) -> tuple[FisherVectors, np.ndarray, int]:
    """The Fisher vectors of n images at which the network is differentiable to float32's precision, their rows in
    float64, and how many images were passed over."""
    vectors = fisher_vectors(name, n + n // 20, block)
    with jax.enable_x64(True):
        rows = whole(in_float64(vectors))
    apart = np.linalg.norm(rows - whole(vectors), axis=1) / np.linalg.norm(rows, axis=1)
    kept = np.flatnonzero(apart < KINK)[:n]
    images = networks.images(name, n + n // 20)[kept]
    chosen = FisherVectors(vectors.scores, images, vectors.statistics, damping=DAMPING, block_rows=block)
    return chosen, rows[kept], int(np.sum(apart[: kept[-1]] >= KINK))


def interleaved(runs: dict[str, Callable[[], Any]], rounds: int = 3, warm: bool = True) -> dict[str, list[float]]:
    """Seconds of each run, one after the other, `rounds` times; each ran once before, to compile."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(-1 if warm else 0, rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            jax.block_until_ready(run())
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def paper_step(products: JacobianProducts, k: int) -> Callable[[], Any]:
    """One of Algorithm 4's steps: V M, V^T M and a QR, l = k + 10 columns."""
    omega = jnp.ones((products.shape[1], k + 10), jnp.float32) / products.shape[1]

    def step() -> Any:
        return products.rmatmat(jnp.linalg.qr(products.matmat(omega))[0])

    return step


@contextmanager
def plain_convolutions() -> Iterator[None]:
    """XLA's own convolutions, as in a network written without ours."""
    ours, convolution.quickest = convolution.quickest, lambda *_: "native"
    try:
        yield
    finally:
        convolution.quickest = ours


def stream(vectors: FisherVectors, k: int, passes: int = PASSES, oversampling: int = 16) -> Callable[[], Any]:
    return lambda: strategies.decompose(vectors, "stream", rank=k, key=KEY, passes=passes,
                                        oversampling=oversampling).right


def note(section: str, name: str, found: dict[str, Any]) -> None:
    """Keep one result, with what it was measured on."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept.setdefault(section, {})[name] = found | {"environment": environment()}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    print(section, name, json.dumps(found), flush=True)


# --- speed ---

# network, k, examples streamed, examples of the paper's step, rows in a block, passes and oversampling: as many as
# leave no mode worse than the paper's algorithm does (see `error`)
SPEED = [("lenet5", 32, 8192, 256, 256, 3, 128), ("lenet5", 128, 8192, 128, 256, 4, 32),
         ("dcgan-small", 32, 8192, 256, 256, 4, 32), ("dcgan-small", 128, 8192, 128, 256, 4, 32),
         ("wrn-16-1", 32, 2048, 16, 128, 5, 16), ("wrn-40-2", 32, 1024, 4, 64, 3, 64)]


def speed(only: str | None = None) -> None:
    """`stream` against the paper's algorithm: milliseconds an example, end to end."""
    for name, k, n, few, block, passes, oversampling in SPEED:
        if only and only != f"{name}-{k}":
            continue
        vectors = fisher_vectors(name, n, block)
        products = JacobianProducts(fisher_vectors(name, few, min(few, 64)))
        plain = JacobianProducts(fisher_vectors(name, few, min(few, 64)))
        with plain_convolutions():  # looked at when first traced
            paper_step(plain, k)()
        seconds = interleaved({"stream": stream(vectors, k, passes, oversampling),
                               "paper's step": paper_step(products, k), "plain": paper_step(plain, k)})
        ours = [1e3 * value / n for value in seconds["stream"]]
        paper, on_plain = ([1e3 * PAPER_STEPS * value / few for value in seconds[which]]
                           for which in ("paper's step", "plain"))
        note("speed", f"{name}-{k}", {
            "examples": n, "passes": passes, "oversampling": oversampling, "parameters": vectors.scores.size,
            "stream_ms": ours, "paper_ms": paper, "paper_on_plain_convolutions_ms": on_plain,
            "paper_examples": few, "paper_extrapolated": True, "ratio": quicker(paper, on_plain) / quicker(ours)})


def quicker(*runs: list[float]) -> float:
    """The least of the medians: the paper's algorithm is given the convolutions that suit it."""
    return min(statistics.median(values) for values in runs)


def gram(only: str | None = None) -> None:
    """The exact Gram matrix against the paper's algorithm at n = 512."""
    for name, k in (("lenet5", 32), ("dcgan-small", 20)):
        vectors = fisher_vectors(name, 512, 256)
        products = JacobianProducts(fisher_vectors(name, 256, 64))
        plain = JacobianProducts(fisher_vectors(name, 256, 64))
        with plain_convolutions():
            paper_step(plain, k)()
        seconds = interleaved({
            "explicit": lambda v=vectors, k=k: strategies.decompose(v, "explicit", rank=k, key=KEY).right,
            "gram": lambda v=vectors, k=k: strategies.decompose(v, "gram", rank=k, key=KEY).right,
            "paper's step": paper_step(products, k), "plain": paper_step(plain, k)}, 5)
        paper, on_plain = ([PAPER_STEPS * value * 512 / 256 for value in seconds[which]]
                           for which in ("paper's step", "plain"))
        note("gram", f"{name}-{k}", {
            "examples": 512, "gram_s": seconds["gram"], "explicit_s": seconds["explicit"], "paper_s": paper,
            "paper_on_plain_convolutions_s": on_plain, "paper_extrapolated": True,
            "ratio": quicker(paper, on_plain) / quicker(seconds["gram"])})


AUTO = [(name, k, n) for name in ("dcgan-small", "lenet5") for k in (32, 128) for n in (128, 512, 2048, 8192)]


def auto(only: str | None = None) -> None:
    """What `auto` takes, its probe included, against every strategy by name (but `jvp`)."""
    for name, k, n in AUTO:
        if k >= n or (only and only != f"{name}-{k}-{n}"):
            continue
        vectors = fisher_vectors(name, n, 128 if name.startswith("wrn") else 256)
        options = {"rank": k, "oversampling": 16, "passes": 10, "memory_bytes": 4 * 2**30}
        costs = strategies.plans(vectors.shape, strategies.probe_machine(vectors, min(k + 16, n)), rank=k,
                                 oversampling=16, passes=10, block_rows=vectors.block_rows, memory_bytes=4 * 2**30)
        estimated = {plan.strategy: plan.seconds for plan in costs}
        fitting = {plan.strategy for plan in costs if plan.bytes <= 4 * 2**30}
        cheapest = min(estimated[strategy] for strategy in fitting)
        taken: list[str] = []

        def by_auto(vectors: Any = vectors, k: int = k, options: Any = options, taken: Any = taken) -> Any:
            chosen = strategies.plan(vectors, "auto", **options).strategy
            taken.append(chosen)
            return decomposed(vectors, chosen, k)

        runs: dict[str, Callable[[], Any]] = {"auto": by_auto}
        for strategy in ("explicit", "gram", "cogram", "stored", "stream"):
            if strategy in fitting and estimated[strategy] < 10 * cheapest + 1:  # what is hopeless is not timed
                runs[strategy] = lambda v=vectors, s=strategy, k=k: decomposed(v, s, k)
        seconds = interleaved(runs)
        best = min((statistics.median(values), strategy) for strategy, values in seconds.items() if strategy != "auto")
        note("auto", f"{name}-{k}-{n}", {
            "seconds": seconds, "estimated": estimated, "taken": taken[1:], "best": best[1],
            "ratio": statistics.median(seconds["auto"]) / best[0]})


def decomposed(vectors: FisherVectors, strategy: Any, k: int) -> Any:
    """As the pipeline does it: until every mode meets its tolerance."""
    return strategies.decompose(vectors, strategy, rank=k, key=KEY, passes=10, tolerance=5e-4).right


def transform(only: str | None = None) -> None:
    """An embedding, by either whitening, against the per-example gradients alone; `afterwards`: each layer whitened as
    a whole from gradients that are there, not while they are made (`nfk.fisher.factored`)."""
    for name, k, n, block in (("lenet5", 128, 4096, 256), ("dcgan-small", 128, 4096, 256), ("vae", 128, 2048, 256),
                              ("mlp", 128, 512, 128), ("wrn-16-1", 32, 512, 128), ("dcgan", 128, 128, 128)):
        if only and only != name:
            continue
        vectors, layers = fisher_vectors(name, n, block), fisher_vectors(name, n, block, kronecker=True)
        afterwards = copy.copy(layers)
        afterwards.whitening = layers.whitening.afterwards()
        right = jnp.ones((vectors.shape[1], k), jnp.float32) / vectors.shape[1]

        def gradients(vectors: Any = vectors) -> None:
            for index in range(block_count(vectors)):
                jax.block_until_ready(vectors.scores(vectors.examples(index)))

        seconds = interleaved({"transform": lambda v=vectors, w=right: image_pass(v, w), "gradients": gradients,
                               "kronecker": lambda v=layers, w=right: image_pass(v, w),
                               "afterwards": lambda v=afterwards, w=right: image_pass(v, w)}, 5)
        middle = {key: statistics.median(values) for key, values in seconds.items()}
        note("transform", f"{name}-{k}", {
            "examples": n, **{f"{key}_ms": [1e3 * value / n for value in values] for key, values in seconds.items()},
            "ratio": middle["transform"] / middle["gradients"],
            "kronecker_ratio": middle["kronecker"] / middle["gradients"],
            "afterwards_ratio": middle["afterwards"] / middle["gradients"]})


# --- error ---


FLOOR = 3e-7
"""Errors below are float32's rounding, in which no algorithm is better than another."""


def error(only: str | None = None) -> None:
    """Relative eigenvalue errors against the float64 decomposition of float64 gradients, and the modes in which
    `stream`, as timed in `speed`, is worse than the paper's algorithm (both above float32's rounding)."""
    for name, k, _, _, block, passes, oversampling in SPEED:
        if name == "wrn-40-2" or (only and only != f"{name}-{k}"):  # its float64 rows would take an hour
            continue
        n = 2048 if name.startswith("wrn") else 4096
        vectors, rows, passed = off_kinks(name, n, block)
        truth = scipy.linalg.eigh(rows @ rows.T, eigvals_only=True, subset_by_index=(n - k, n - 1))[::-1]
        del rows
        found: dict[str, Any] = {"examples": n, "images at a kink, passed over": passed}
        _, values, _ = subspace_iteration(DenseProducts(whole(vectors)), rank=k, key=KEY)
        paper = np.abs(values[:k] ** 2 / truth - 1)
        found["paper"] = {"leading_half": float(paper[: k // 2].max()), "all": float(paper.max())}
        for tried in dict.fromkeys([(passes, oversampling), (5, 16), (6, 16)]):
            factors = strategies.decompose(vectors, "stream", rank=k, key=KEY, passes=tried[0], oversampling=tried[1])
            way = found[f"stream, {tried[0]} passes, oversampling {tried[1]}"] = described(factors, truth)
            true = np.abs(factors.singular_values**2 / truth - 1)
            way["modes_worse_than_paper"] = int(np.sum(true > np.maximum(paper, FLOOR)))
        found["gram, float32"] = described(strategies.decompose(vectors, "gram", rank=k, key=KEY), truth)
        if name == "lenet5" and k == 128:
            found["gram, float64 gradients"] = float64_gram(2048, k)
        note("error", f"{name}-{k}", found)


def float64_gram(n: int, k: int) -> dict[str, Any]:
    """`gram` with float64 gradients, LeNet-5, against the eigenvalues of the float64 rows' own Gram matrix."""
    vectors = fisher_vectors("lenet5", n, 256)
    with jax.enable_x64(True):
        exact = in_float64(vectors)
        rows = whole(exact)
        truth = scipy.linalg.eigh(rows @ rows.T, eigvals_only=True, subset_by_index=(n - k, n - 1))[::-1]
        return described(strategies.decompose(exact, "gram", rank=k, key=KEY), truth)


def described(factors: Any, truth: np.ndarray) -> dict[str, Any]:
    k = len(truth)
    true = np.abs(factors.singular_values**2 / truth - 1)
    ratio = factors.errors / true
    return {"leading_half": float(true[: k // 2].max()), "all": float(true.max()), "passes": factors.passes,
            "estimate_over_true": {"least": float(ratio.min()), "median": float(np.median(ratio)),
                                   "within_10": float(np.mean((ratio > 0.1) & (ratio < 10)))},
            "true": [float(f"{value:.2e}") for value in true],
            "estimated": [float(f"{value:.2e}") for value in factors.errors]}


# --- growth with n ---

GROWTH = tuple(2**power for power in range(10, 17))


def growth(only: str | None = None) -> None:
    """`stream` on the small DCGAN, n = 2^10 .. 2^16, each in a process of its own, three times (--only: so many):
    seconds and peak memory."""
    import tempfile

    runs: dict[int, list[dict[str, float]]] = {n: [] for n in GROWTH}
    with tempfile.TemporaryDirectory() as folder:
        def measured(n: int) -> dict[str, float]:
            output = subprocess.run([sys.executable, "-m", __spec__.name, "--one", str(n), folder], check=True,
                                    stdout=subprocess.PIPE, text=True)
            return json.loads(output.stdout.splitlines()[-1])

        measured(GROWTH[0])  # the first process trains the network and stores the images: its memory is not the others'
        for _ in range(int(only or 3)):
            for n in GROWTH:
                runs[n].append(measured(n))
    seconds = [statistics.median(run["seconds"] for run in runs[n]) for n in GROWTH]
    peaks = [statistics.median(run["peak_bytes"] for run in runs[n]) for n in GROWTH]
    slope = np.polyfit(np.log(GROWTH), np.log(seconds), 1)[0]
    beyond = [peak - 4 * 32 * n for peak, n in zip(peaks, GROWTH, strict=True)]
    note("growth", "dcgan-small-32", {
        "examples": list(GROWTH), "seconds": seconds, "runs": {str(n): found for n, found in runs.items()},
        "slope": float(slope), "peak_bytes": peaks, "growth_beyond_outputs": max(beyond) / beyond[0] - 1})


def one(n: int, folder: str) -> None:
    """One streamed decomposition of n stored images, and this process's peak memory."""

    import zarr

    path = Path(folder) / "images.zarr"
    if not path.exists():
        made = zarr.create_array(str(path), shape=(GROWTH[-1] + SAMPLES, 28, 28, 1), dtype="uint8",
                                 chunks=(256, 28, 28, 1), shards=(8192, 28, 28, 1))
        for start in range(0, made.shape[0], 8192):
            rows = min(8192, made.shape[0] - start)
            made[start : start + rows] = (networks.images("dcgan-small", start + rows)[start:] * 255).astype(np.uint8)
    from nfk.stages.images import UnitImages

    stored = zarr.open_array(str(path), mode="r")
    net = networks.kept_network("dcgan-small", Path(folder))
    scores = Scores(net.log_density, net.params, KEY)
    found = fisher_statistics(scores, UnitImages(stored, GROWTH[-1], GROWTH[-1] + SAMPLES))
    vectors = FisherVectors(scores, UnitImages(stored, 0, n), found, damping=DAMPING)
    warm = FisherVectors(scores, UnitImages(stored, 0, min(n, 4096)), found, damping=DAMPING)
    strategies.decompose(warm, "stream", rank=32, key=KEY, passes=PASSES)
    started = time.perf_counter()
    strategies.decompose(vectors, "stream", rank=32, key=KEY, passes=PASSES)
    print(json.dumps({"seconds": time.perf_counter() - started,
                      "peak_bytes": peak_bytes()}))


# --- peers ---


def peers(only: str | None = None) -> None:
    """What a person would otherwise use on the same Fisher vectors, k = 32: seconds and eigenvalue error."""
    import scipy.sparse.linalg
    from sklearn.decomposition import TruncatedSVD

    k = 32
    for name, n in (("lenet5", 512), ("lenet5", 2048), ("dcgan-small", 512), ("dcgan-small", 2048)):
        vectors, rows, _ = off_kinks(name, n, 256)
        truth = np.linalg.eigvalsh(rows @ rows.T)[::-1][:k]
        del rows
        values: dict[str, np.ndarray] = {}

        def gram_and_truncated_svd(values: Any = values, vectors: Any = vectors) -> None:
            v = whole(vectors)
            found = TruncatedSVD(k, random_state=0, n_iter=10).fit(v @ v.T)
            values["gram + TruncatedSVD"] = found.singular_values_

        def scipy_svds(values: Any = values, vectors: Any = vectors) -> None:
            values["scipy svds, V stored"] = scipy.sparse.linalg.svds(
                whole(vectors), k, return_singular_vectors="u", random_state=0)[1][::-1] ** 2

        def matfree_bidiag(values: Any = values, vectors: Any = vectors) -> None:
            from matfree import decomp

            matrix = jnp.asarray(whole(vectors))
            bidiagonal = decomp.bidiag(80, materialize=True)
            start = jax.random.normal(KEY, (matrix.shape[1],))
            found = jax.jit(lambda x: bidiagonal(lambda u: matrix @ u, x / jnp.linalg.norm(x)))(start)
            values["matfree bidiag 80, V stored"] = np.linalg.svd(
                np.asarray(found.J_small, np.float64), compute_uv=False)[:k] ** 2

        def ours(strategy: Any, values: Any = values, vectors: Any = vectors) -> None:
            values[strategy] = strategies.decompose(vectors, strategy, rank=k, key=KEY).singular_values ** 2

        runs = {**{strategy: functools.partial(ours, strategy) for strategy in ("gram", "stream", "stored")},
                "gram + TruncatedSVD": gram_and_truncated_svd, "scipy svds, V stored": scipy_svds}
        try:
            import matfree  # noqa: F401
            runs["matfree bidiag 80, V stored"] = matfree_bidiag
        except ImportError:
            print("matfree is not installed: left out", file=sys.stderr)
        seconds = interleaved(runs)
        note("peers", f"{name}-{n}", {
            "seconds": seconds,
            "error": {peer: {"leading_half": float(np.abs(found / truth - 1)[: k // 2].max()),
                             "all": float(np.abs(found / truth - 1).max())} for peer, found in values.items()}})


def tangents(only: str | None = None) -> None:
    """neural-tangents' kernel and a truncated SVD of it against `gram`, the library in an environment of its own."""
    from tests.benchmarks import neural_tangents

    for name, n in (("lenet5", 512), ("dcgan-small", 512), ("lenet5", 2048), ("dcgan-small", 2048)):
        if only is None or only == f"{name}-{n}":
            note("tangents", f"{name}-{n}", neural_tangents.measured(name, n, 32))


SECTIONS: dict[str, Callable[[str | None], None]] = {
    "speed": speed, "gram": gram, "auto": auto, "transform": transform, "error": error, "growth": growth,
    "peers": peers, "tangents": tangents}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; none: all")
    options.add_argument("--only", help="one case of a section, such as lenet5-32")
    asked = options.parse_args()
    for section in asked.sections or SECTIONS:
        if section not in SECTIONS:
            options.error(f"{section!r} is no section; there are {', '.join(SECTIONS)}")
        SECTIONS[section](asked.only)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(int(sys.argv[2]), sys.argv[3])
    else:
        main()
