"""Two processes on a core each against one process on one core: svd and embed, the seconds of the stages themselves.

    python -m tests.benchmarks.hosts [--rounds 5] [--train 3000 12000]

LeNet-5 on the bundled digits and shifted copies of them, rank 32, Fisher vectors recomputed in each of 5 passes. Both
ways in turn at both sizes, `rounds` times, after one round that is not counted and leaves the compiled programs. The
medians' ratio is what two processes gain (at most 2); that of the seconds which the larger size takes more is what they
gain on each further image, without what a stage costs at any size: imports, compiling (JAX keeps compiled programs of
process 0 alone), meeting. Result: results/hosts.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tests.benchmarks import networks
from tests.benchmarks.environment import environment
from tests.hosts.processes import free_port

RESULTS = Path(__file__).parent / "results" / "hosts.json"
STAGES = {"svd": "factors", "embed": "embeddings"}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--train", type=int, nargs=2, default=(3000, 12000))
    asked = options.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise SystemExit("this takes two cores")
    seconds: dict[str, dict[str, list[float]]] = {
        stage: {_way(train, count): [] for train in asked.train for count in (1, 2)} for stage in STAGES}
    with TemporaryDirectory(prefix="nfk-hosts-") as scratch:
        folders = {train: Path(scratch) / str(train) for train in asked.train}
        for train, folder in folders.items():
            folder.mkdir()
            workspace(folder, train)
            for command in (["data"], ["pretrain", "net"], ["statistics", "net"]):
                _together([command], folder, cores)
        for turn in range(asked.rounds + 1):
            for train, folder in folders.items():
                for count in (1, 2):
                    for stage, made in STAGES.items():
                        shutil.rmtree(folder / made, ignore_errors=True)
                        took = stage_seconds(stage, count, folder, cores)
                        print(f"round {turn}: {stage} of {train:,} by {count}: {took:.2f} s", flush=True)
                        if turn > 0:
                            seconds[stage][_way(train, count)].append(took)
    result = {stage: {"seconds": found, **gains(found, *asked.train)} for stage, found in seconds.items()}
    RESULTS.write_text(json.dumps({"environment": environment(), "load_average": round(os.getloadavg()[0], 1),
                                   "rounds": asked.rounds, "train": asked.train, **result}, indent=1) + "\n")
    print(json.dumps({stage: gains(found, *asked.train) for stage, found in seconds.items()}))


def workspace(folder: Path, train: int) -> None:
    """Settings, and images: the digits, and as many shifted ones as are wanted beside them."""
    pixels = (networks.images("lenet5", train + 1500) * 255).round().astype(np.uint8)
    labels = np.resize(np.arange(10, dtype=np.int32), len(pixels))  # LeNet-5 may learn anything: times are the same
    np.savez(folder / "digits.npz", x_train=pixels[:-1000], y_train=labels[:-1000], x_test=pixels[-1000:],
             y_test=labels[-1000:])
    (folder / "params.yaml").write_text(json.dumps({
        "data": {"name": "digits", "source": "digits.npz", "train": train, "validation": 500, "test": 1000},
        "families": {"net": {"model": "lenet5", "epochs": 1}}, "evaluate": {"labels": [100]},
        "statistics": {"model_samples": 1024},
        "svd": {"rank": 32, "strategy": "stream", "passes": 5, "tolerance": 1e-9, "accept_unconverged": True,
                "block": 125}, "embed": {"block": 125}}))


def _way(train: int, count: int) -> str:
    return f"{train} by {count}"


def gains(found: dict[str, list[float]], small: int, large: int) -> dict[str, float]:
    """One process's median seconds over two processes', at both sizes and for what the larger takes more."""
    took = {way: statistics.median(times) for way, times in found.items()}
    more = [took[_way(large, count)] - took[_way(small, count)] for count in (1, 2)]
    return {f"gain at {train}": round(took[_way(train, 1)] / took[_way(train, 2)], 3) for train in (small, large)} | {
        "gain on each further image": round(more[0] / more[1], 3)}


def stage_seconds(stage: str, count: int, folder: Path, cores: list[int]) -> float:
    """As the stage's own clock has it: without the imports, with reading, compiling and writing."""
    address = f"127.0.0.1:{free_port()}"
    _together([[stage, "net", *(["--distributed", "--coordinator", address, "--processes", str(count),
                                 "--process", str(index)] if count > 1 else [])] for index in range(count)],
              folder, cores)
    return json.loads((folder / ".nfk" / "last" / f"{stage}@net.json").read_text())["seconds"]


def _together(commands: list[list[str]], folder: Path, cores: list[int]) -> None:
    """`nfk COMMAND` for each, on a core of its own, to the end."""
    shared = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
              "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"), "NFK_PROGRESS": "none",
              "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    running = [subprocess.Popen(
        ["taskset", "--cpu-list", str(core), sys.executable, "-m", "nfk", *command], cwd=folder,
        env=os.environ | shared, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for command, core in zip(commands, cores, strict=False)]
    said = [process.communicate()[1] for process in running]
    if any(process.returncode not in (0, 3) for process in running):
        raise SystemExit("\n".join(said))


if __name__ == "__main__":
    main()
