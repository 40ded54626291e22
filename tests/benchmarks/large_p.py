"""A right factor larger than the memory it may take: svd and embed of ten million parameters in 2 GiB.

    python -m tests.benchmarks.large_p [--hidden 2790] [--examples 72] [--embedded 48] [--rank 64] [--memory-gib 2.0]

A perceptron with two hidden layers, trained for an epoch on bundled digits; each stage in a process of its own, by the
public commands. W takes rank * p * 4 bytes. Peak memory is the process's whole resident set: the network, its
statistics, JAX and the data included, beside what `svd.memory_gib` bounds; `idle` is a process that loads all these and
scores one image. Result: results/large_p.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks.environment import environment

RESULTS = Path(__file__).parent / "results" / "large_p.json"
IDLE = """
from nfk.params import load
from nfk.stages import images, network
from nfk.fisher.vectors import FisherVectors
from nfk.memory import peak_bytes
params = load()
data, net = images.load(params), network.load(params, "net")
statistics, _ = network.load_statistics(params, net, data)
FisherVectors(net.scores, data.examples("train", 1), statistics, block_rows=1).block(0).block_until_ready()
print(peak_bytes())
"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--hidden", type=int, default=2790)
    options.add_argument("--examples", type=int, default=72)
    options.add_argument("--embedded", type=int, default=48)
    options.add_argument("--rank", type=int, default=64)
    options.add_argument("--block", type=int, default=4)
    options.add_argument("--memory-gib", type=float, default=2.0)
    asked = options.parse_args()
    with TemporaryDirectory(prefix="nfk-large-p-") as scratch:
        folder = Path(scratch)
        (folder / "params.yaml").write_text(json.dumps({
            "data": {"train": max(asked.examples, asked.embedded), "validation": 10, "test": 10},
            "families": {"net": {"model": "mlp", "hidden": asked.hidden, "epochs": 1, "batch": 32}},
            "statistics": {"model_samples": 16, "block": asked.block},
            "svd": {"rank": asked.rank, "examples": asked.examples, "block": asked.block,
                    "memory_gib": asked.memory_gib},
            "embed": {"examples": asked.embedded, "block": asked.block},
            "evaluate": {"labels": [10], "neighbours": [1]}}))
        for stage in ("data", "pretrain", "statistics"):
            measured(stage, folder)
        found = {"idle": {"peak_gib": round(int(run([sys.executable, "-c", IDLE], folder)) / 2**30, 3)},
                 **{stage: measured(stage, folder) for stage in ("svd", "embed")}}
        marker = json.loads((folder / "factors" / "net.zarr" / "COMMITTED.json").read_text())
    p, k = marker["arrays"]["right"]["shape"]
    kept = {name: marker["attributes"][name] for name in ("strategy", "passes", "orthogonality")}
    result = {"parameters": p, "rank": k, "examples": asked.examples, "embedded": asked.embedded,
              "memory_gib": asked.memory_gib, "right_gib": round(p * k * 4 / 2**30, 3), **kept, "processes": found}
    RESULTS.write_text(json.dumps({"environment": environment(), "load_average": round(os.getloadavg()[0], 1),
                                   **result}, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def measured(stage: str, folder: Path) -> dict[str, float]:
    """Seconds and peak resident GiB of a stage, as it counted them itself."""
    name = stage if stage == "data" else f"{stage}@net"
    run([sys.executable, "-m", "nfk", *name.split("@")], folder)
    last = json.loads((folder / ".nfk" / "last" / f"{name}.json").read_text())
    return {key: last[key] for key in ("seconds", "peak_gib")}


def run(command: list[str], folder: Path) -> str:
    """What it printed."""
    process = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "NFK_PROGRESS": "none"})
    if process.returncode not in (0, 3):  # 3: done, and not tracked
        raise SystemExit(process.stdout)
    return process.stdout


if __name__ == "__main__":
    main()
