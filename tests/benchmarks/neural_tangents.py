"""google/neural-tangents as a peer: its empirical kernel and a truncated SVD of it, against our `gram`.

    python -m tests.benchmarks.neural_tangents lenet5 512

It does not import under our JAX, so it runs in an environment of its own (made once, about 600 MB in the user's
cache) and is asked for one run at a time, ours in between: the same images, weights and rounds. Ours gives more for
its seconds: the right factor and an estimate of every eigenvalue's error.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nfk.fisher import strategies
from nfk.fisher.parameters import parameter_index
from nfk.fisher.scores import Scores
from nfk.fisher.statistics import fisher_statistics, identity_statistics
from nfk.fisher.vectors import FisherVectors
from nfk.models.convolution_choice import cache_file
from tests.benchmarks import networks
from tests.benchmarks.core import DAMPING, KEY, SAMPLES

# a JAX of its time; without what is only asked for to use TensorFlow
PACKAGES = ("neural-tangents==0.6.5", "jax==0.4.28", "jaxlib==0.4.28", "numpy==1.26.4", "scipy==1.17.1",
            "scikit-learn==1.9.1", "ml_dtypes==0.5.4", "opt_einsum==3.4.0", "frozendict==2.5.1",
            "typing_extensions==4.16.0", "joblib==1.6.0", "cloudpickle==3.1.3",
            "threadpoolctl==3.8.0", "narwhals==2.29.0")
PEER = Path(__file__).with_name("neural_tangents_peer.py")
KERNELS = ("plain", "whitened")


def interpreter() -> Path:
    """The peer's Python; its environment is made at the first call."""
    folder = cache_file().parent / "neural-tangents-0.6.5"
    python, complete = folder / "bin" / "python", folder / "complete.json"
    if not complete.exists() or json.loads(complete.read_text()) != list(PACKAGES):
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", *PACKAGES], check=True)
        complete.write_text(json.dumps(PACKAGES))
    return python


def uncentred(name: str, n: int) -> dict[str, FisherVectors]:
    """Our vectors of both kernels, Z = 0: with I = 1, and whitened as in every other benchmark."""
    net = networks.network(name)
    scores = Scores(net.log_density, net.params, KEY)
    images = networks.images(name, n + SAMPLES)
    found = fisher_statistics(scores, images[n:])._replace(mean_score=np.zeros(scores.size))
    return {"plain": FisherVectors(scores, images[:n], identity_statistics(scores.size), damping=0.0),
            "whitened": FisherVectors(scores, images[:n], found, damping=DAMPING)}


def write(path: Path, name: str, n: int, k: int, weight: np.ndarray) -> float:
    """What the peer needs of a network, in one file; the largest score."""
    net = networks.network(name)
    kept: dict[str, Any] = {"images": networks.images(name, n), "k": k}
    for parameter, leaf in zip(parameter_index(net.params), jax.tree.leaves(net.params), strict=True):
        kept[f"theta/{parameter.path}"] = np.asarray(leaf)
        kept[f"weight/{parameter.path}"] = weight[parameter.offset :][: leaf.size].reshape(leaf.shape)
    if name.startswith("dcgan"):
        for stored in net.log_density.__self__.variables["batch_stats"]["discriminator"].values():
            (vector,) = (entry for entry in stored if entry.endswith("/u"))
            kept[f"u/{vector.split('/')[0]}"] = np.asarray(stored[vector])
    scores = jax.vmap(net.log_density, (None, 0, None))(net.params, kept["images"][:64], KEY)
    np.savez(path, **kept, scores=np.asarray(scores))
    return float(np.abs(scores).max())


def measured(name: str, n: int, k: int = 32, rounds: int = 3) -> dict[str, Any]:
    """Seconds of both, interleaved, and how far their eigenvalues are apart; a ratio is the peer's seconds by ours.

    name: lenet5 or dcgan-small. Takes some minutes, most of it compiling and trying tiles.
    """
    vectors = uncentred(name, n)
    answers: dict[str, list[dict[str, Any]]] = {}
    seconds: dict[str, list[float]] = {kernel: [] for kernel in KERNELS}
    values: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.npz"
        largest = write(path, name, n, k, np.asarray(vectors["whitened"].whitening.weight))
        with subprocess.Popen([interpreter(), "-I", PEER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              text=True) as peer:
            ready = answer(peer)
            if ready["score_error"] > 1e-5 * max(1.0, largest):
                raise RuntimeError(f"the peer's scores of {name} differ from ours by {ready['score_error']:.2g}: "
                                   "its network is another one")
            for number in range(-1, rounds):  # the first to compile ours, and warm both
                for kernel in KERNELS:
                    started = time.perf_counter()
                    values[kernel] = strategies.decompose(vectors[kernel], "gram", rank=k, key=KEY).singular_values**2
                    if number >= 0:
                        seconds[kernel].append(time.perf_counter() - started)
                for label in ready["tried"]:
                    found = answer(peer, label)
                    if number >= 0:
                        answers.setdefault(label, []).append(found)
    peers = {label: described(found, values[label.split()[1]], ready["tried"][label])
             for label, found in answers.items()}
    result: dict[str, Any] = {"examples": n, "rank": k, "score_error": ready["score_error"],
                              "failures": ready["failures"], "versions": ready["versions"]}
    for kernel in KERNELS:
        of_kernel = {label.split()[0]: found for label, found in peers.items() if label.endswith(f" {kernel}")}
        best = min(of_kernel, key=lambda peer: of_kernel[peer]["seconds"])
        ours = statistics.median(seconds[kernel])
        result[kernel] = {"gram_s": seconds[kernel], "peers": of_kernel, "best": best,
                          "ratio": of_kernel[best]["seconds"] / ours,
                          "ratios": {peer: found["seconds"] / ours for peer, found in of_kernel.items()}}
    return result


def answer(peer: subprocess.Popen[str], label: str | None = None) -> dict[str, Any]:
    if label is not None:
        peer.stdin.write(label + "\n")
        peer.stdin.flush()
    if not (line := peer.stdout.readline()):
        raise RuntimeError(f"the peer ended with {peer.wait()} before it answered {label or 'at all'}; see above")
    return json.loads(line)


def described(found: list[dict[str, Any]], ours: np.ndarray, tried: dict[str, float]) -> dict[str, Any]:
    kernel, svd = ([one[part] for one in found] for part in ("kernel_s", "svd_s"))
    summary: dict[str, Any] = {
        "seconds": statistics.median(map(sum, zip(kernel, svd, strict=True))), "kernel_s": kernel, "svd_s": svd,
        "tile": int(min(tried, key=lambda size: tried[size])), "tried_tiles_s": tried,
        "extrapolated": found[0]["extrapolated"]}
    if not summary["extrapolated"]:
        apart = np.abs(np.array(found[-1]["eigenvalues"]) / ours - 1)
        summary["eigenvalues_apart"] = {"leading_half": float(apart[: len(apart) // 2].max()),
                                        "all": float(apart.max())}
    return summary


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("name", choices=("lenet5", "dcgan-small"))
    options.add_argument("n", type=int)
    options.add_argument("--rank", type=int, default=32)
    options.add_argument("--rounds", type=int, default=3)
    asked = options.parse_args()
    print(json.dumps(measured(asked.name, asked.n, asked.rank, asked.rounds), indent=1))


if __name__ == "__main__":
    main()
