"""Seconds and memory against the number of images, to a million: svd and embed by the public commands.

    python -m tests.benchmarks.large_n [--from 12] [--to 20] [--step 2] [--folder FOLDER]

The bundled digits and shifted copies of them, framed to 32x32, read from a store; a perceptron (32,000 parameters)
trained on all of them for an epoch; the paper's vectors, rank 32, `stream` with 4 passes. Each stage of each n =
2^from .. 2^to is a process of its own. Seconds are the stage's own, peak memory is the process's resident set.
Linear: the slope of log seconds on log n is 1, which what a stage costs at any n (imports, compiling, the start)
bends at the small end; so the line a + b n that fits best in relative terms is told too, with how far from it the
worst size is. Flat: memory of svd grows by no more than U, n x 32 float32, that of embed by nothing. Result:
results/large_n.json; it has no memory, which that run measured wrongly: a later one, to 2^18, is kept as
results/large_n_memory.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from nfk.params import PAPER_VECTORS
from tests.benchmarks import networks
from tests.benchmarks.environment import environment
from tests.benchmarks.large_p import measured

RESULTS = Path(__file__).parent / "results" / "large_n.json"
RANK = 32


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--from", type=int, default=12, dest="least")
    options.add_argument("--to", type=int, default=20)
    options.add_argument("--step", type=int, default=2)
    options.add_argument("--folder", type=Path, help="where to work and leave everything (default: a temporary one)")
    asked = options.parse_args()
    sizes = [2**power for power in range(asked.least, asked.to + 1, asked.step)]
    with TemporaryDirectory(prefix="nfk-large-n-") as scratch:
        folder = asked.folder or Path(scratch)
        folder.mkdir(exist_ok=True)
        write_images(folder / "digits.npz", sizes[-1] + 1000)
        settings(folder, sizes[-1], sizes[0])
        before = {stage: measured(stage, folder)
                  for stage in ("data", "pretrain", "statistics")}
        found: dict[str, dict[str, list[float]]] = {
            stage: {"seconds": [], "peak_gib": []} for stage in ("svd", "embed")}
        for n in sizes:
            settings(folder, sizes[-1], n)
            for stage, rows in found.items():
                shutil.rmtree(folder / {"svd": "factors", "embed": "embeddings"}[stage], ignore_errors=True)
                for what, value in measured(stage, folder).items():
                    rows[what].append(value)
            keep(sizes, found, before)


def write_images(path: Path, count: int) -> None:
    """`count` digits, uint8 32x32, in the order and the shifts of `networks.images`, with their classes."""
    _, labels = networks.labelled()
    order = np.random.default_rng(0).permutation(len(labels))
    images = np.zeros((count, 32, 32), np.uint8)
    for start in range(0, count, 1 << 16):
        stop = min(count, start + (1 << 16))
        images[start:stop, 2:30, 2:30] = (networks.shifted(start, stop)[..., 0] * 255).round()
    classes = np.resize(labels[order], count)
    np.savez(path, x_train=images[:-500], y_train=classes[:-500], x_test=images[-500:], y_test=classes[-500:])


def settings(folder: Path, train: int, examples: int) -> None:
    (folder / "params.yaml").write_text(json.dumps({
        "data": {"name": "digits", "source": "digits.npz", "train": train, "validation": 500, "test": 500},
        "families": {"net": {"model": "mlp", "hidden": 31, "epochs": 1, "batch": 256}},
        "statistics": {**PAPER_VECTORS["statistics"], "model_samples": 2048},
        "evaluate": {"labels": [100], "ranks": [RANK]},
        "svd": {**PAPER_VECTORS["svd"], "rank": RANK, "strategy": "stream", "passes": 4, "tolerance": 1e-9,
                "accept_unconverged": True, "examples": examples}, "embed": {"examples": examples}}))


def keep(sizes: list[int], found: dict[str, dict[str, list[float]]], before: dict[str, dict[str, float]]) -> None:
    """What there is so far, with slope and growth once there are three sizes."""
    done = sizes[: len(found["embed"]["seconds"])]
    stages: dict[str, dict[str, Any]] = {}
    for stage, rows in found.items():
        held = 4 * RANK if stage == "svd" else 0  # U is in memory, embeddings go to a file
        beyond = [peak - held * n / 2**30 for peak, n in zip(rows["peak_gib"], done, strict=True)]
        stages[stage] = {**rows, "growth_beyond_outputs": round(max(beyond) / beyond[0] - 1, 4)}
        if len(done) > 2:
            seconds = np.array(rows["seconds"])
            design = np.stack([np.ones(len(done)), done], axis=1) / seconds[:, None]
            line, *_ = np.linalg.lstsq(design, np.ones(len(done)), rcond=None)
            stages[stage] |= {"slope": round(float(np.polyfit(np.log(done), np.log(seconds), 1)[0]), 4),
                              "line": {"at any n": float(line[0]), "each image": float(line[1]),
                                       "worst": float(np.max(np.abs(design @ line - 1)))}}
    RESULTS.write_text(json.dumps({"environment": environment(), "load_average": round(os.getloadavg()[0], 1),
                                   "examples": done, "before": before, **stages}, indent=1) + "\n")
    took = {stage: rows["seconds"][-1] for stage, rows in found.items()}
    print(json.dumps({"examples": done[-1], **took}), flush=True)


if __name__ == "__main__":
    main()
