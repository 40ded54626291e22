"""Every strategy on every network, n = 2^7 .. 2^16, in three precisions: seconds against the chip's own rates.

    infra/gpu/bench.sh                                        # correctness first, then all, in slices of 8 minutes
    python -m tests.benchmarks.grid --size small --minutes 3  # what a processor without a GPU can show

1. `correct`: float32 rows against float64 gradients, every strategy against the float64 eigenvalues; ends the run
   where a bound is missed.
2. `rates`: the chip's matrix rate at each precision, and its copy bandwidth.
3. `accuracy`: eigenvalues and subspaces of `stream` at each precision against float64.
4. `grid`: seconds, peak memory, flop/s and bytes/s of each case, beside the floor that the rates set.

A precision is that of the gradients (`jax.default_matmul_precision`); sums over parameters and rows are in float32 in
all of them. Each case is a process of its own, n ascending, so that its peak memory is its own; it ends where the next
n would take longer than --case-seconds. Results are kept after each n in --to, one JSON; a later run goes on from
there, and a case that failed or ended is not begun again unless --again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nfk import durable
from nfk.fisher import strategies
from nfk.fisher.vectors import FisherVectors
from nfk.memory import peak_bytes
from tests.benchmarks import core
from tests.benchmarks.environment import environment

RESULTS = Path(__file__).parent / "results"
PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}
TIMED = ("explicit", "gram", "cogram", "stored", "stream")
PASSES = core.PASSES
MEMORY_PART = 0.8
"""Of the device's memory, what a strategy may plan to hold"""


class Size(NamedTuple):
    """What there is time for."""

    networks: dict[str, int]
    """name: rows in a block"""
    ranks: tuple[int, ...]
    examples: tuple[int, ...]
    side: int
    """of the square matrices that give the matrix rate"""
    copied: int
    """numbers that give the copy bandwidth"""
    checked: tuple[int, tuple[str, ...]]
    """images, and strategies, of the check before all"""
    trained: bool
    """for check and accuracy; times do not depend on it"""


SIZES = {
    "full": Size({"lenet5": 1024, "dcgan-small": 1024, "resnet-gan": 64, "wrn-40-2": 128, "vae-large": 16}, (32, 128),
                 tuple(2**power for power in range(7, 17)), 8192, 2**28,
                 (256, (*TIMED, "jvp")), True),
    "small": Size({"dcgan-small": 64}, (32,), (64, 128), 1024, 2**24,
                  (64, ("explicit", "gram", "stored", "stream", "jvp")), False)}
ACCURATE = {"lenet5": 1024, "dcgan-small": 1024, "resnet-gan": 256, "wrn-40-2": 256}
"""Images on which precisions are compared with float64"""


class Incorrect(SystemExit):
    """A result on this chip misses its bound."""


# --- the parts ---


def correct(size: Size) -> dict[str, Any]:
    """Rows within 1e-4 of float64's at the median image, and each strategy's leading eigenvalues within 1e-5 of the
    float64 eigenvalues of the rows it saw (1e-3 by `jvp`, whose steps are the paper's, however far they lead).
    Incorrect where not."""
    found: dict[str, Any] = {}
    for name in [name for name in size.networks if name in ("lenet5", "dcgan-small")]:
        n, checked = size.checked
        vectors = core.fisher_vectors(name, n, n // 2, size.trained)
        rows = core.whole(vectors).astype(np.float64)
        with jax.enable_x64(True):
            exact = core.whole(core.in_float64(vectors))
        apart = np.linalg.norm(rows - exact, axis=1) / np.linalg.norm(exact, axis=1)
        found[name] = {"rows": _held(f"{name}: rows in float32", float(np.median(apart)), 1e-4)}
        truth = np.linalg.eigvalsh(rows @ rows.T)[::-1][:16]
        for strategy in checked:
            if strategy == "cogram" and vectors.shape[1] > 20_000:
                continue  # p x p in float64
            factors = strategies.decompose(vectors, strategy, rank=16, key=core.KEY, passes=10, tolerance=1e-4)
            errors = np.abs(factors.singular_values**2 / truth - 1)
            found[name][strategy] = _held(f"{name}: eigenvalues by {strategy}", float(errors.max()),
                                          1e-3 if strategy == "jvp" else 1e-5)
    return found


def _held(what: str, value: float, bound: float) -> float:
    if not value < bound:
        raise Incorrect(f"{what}: relative error {value:.2g} exceeds {bound:g}; timings of it would mean nothing")
    return value


def rates(size: Size) -> dict[str, Any]:
    """flop/s of one large product at each precision; bytes/s read and written by an addition."""
    found: dict[str, Any] = {"matrix_flops": {}}
    a, b = (jax.random.normal(key, (size.side, size.side)) for key in jax.random.split(core.KEY))
    for name, precision in PRECISIONS.items():
        with jax.default_matmul_precision(precision):
            product = jax.jit(lambda a, b: a @ b)
            seconds = core.interleaved({"product": lambda f=product: f(a, b)}, 5)["product"]
        found["matrix_flops"][name] = 2 * size.side**3 / statistics.median(seconds)
    x, add = jnp.ones(size.copied), jax.jit(lambda x: x + 1)
    seconds = core.interleaved({"copy": lambda: add(x)}, 5)["copy"]
    return found | {"copy_bytes": 8 * size.copied / statistics.median(seconds)}


def accuracy(size: Size) -> dict[str, Any]:
    """Errors of `stream` at each precision against the float64 decomposition of float64 gradients, and the largest
    angle between its first 8 modes and theirs."""
    found: dict[str, Any] = {}
    for name in [name for name in size.networks if name in ACCURATE]:
        n = min(ACCURATE[name], 2 * size.examples[-1])
        with jax.default_matmul_precision("highest"):
            vectors = core.fisher_vectors(name, n, size.networks[name], size.trained)
            with jax.enable_x64(True):
                rows = core.whole(core.in_float64(vectors))
        values, left = np.linalg.eigh(rows @ rows.T)
        values, left = values[::-1][:32], left[:, ::-1][:, :8]
        del rows
        found[name] = {"examples": n}
        for precision, setting in PRECISIONS.items():
            with jax.default_matmul_precision(setting):
                seen = core.fisher_vectors(name, n, size.networks[name], size.trained)
                factors = strategies.decompose(seen, "stream", rank=32, key=core.KEY, passes=8, tolerance=1e-4)
            errors = np.abs(factors.singular_values**2 / values - 1)
            cosines = np.linalg.svd(left.T @ np.asarray(factors.left, np.float64)[:, :8], compute_uv=False)
            found[name][precision] = {
                "leading_half": float(errors[:16].max()), "all": float(errors.max()),
                "angle_of_8": float(np.arccos(min(1.0, float(cosines.min()))))}
    return found


# --- the grid ---


class Case(NamedTuple):
    network: str
    rank: int
    precision: str
    strategy: str

    def __str__(self) -> str:
        return "/".join(map(str, self))


def cases(size: Size) -> list[Case]:
    """In float32 all strategies; in the others what a user would run at size."""
    return [Case(name, rank, precision, strategy) for precision in PRECISIONS for name in size.networks
            for rank in size.ranks for strategy in (TIMED if precision == "float32" else ("stream", "gram"))]


def run_case(case: Case, size: Size, case_seconds: float, known: set[int]) -> None:
    """Each n of the case not `known`: a line of JSON, or one with "ended" where it goes no further."""
    with jax.default_matmul_precision(PRECISIONS[case.precision]):
        before = 0.0
        for n in size.examples:
            if case.rank >= n or n in known:
                continue
            if 4 * before > case_seconds:  # twice to four times the last
                return _tell(case, n, ended=f"would take up to {4 * before:.0f} s, above {case_seconds:g}")
            block = min(size.networks[case.network], n)
            vectors = core.fisher_vectors(case.network, n, block, trained=False)
            plan = _plan(vectors, case, block)
            if plan.bytes > MEMORY_PART * _memory():
                return _tell(case, n, ended=f"needs {plan.bytes / 2**30:.1f} GiB of {_memory() / 2**30:.1f}")

            def work(vectors: FisherVectors = vectors) -> Any:
                return strategies.decompose(
                    vectors, case.strategy, rank=case.rank, key=core.KEY, passes=PASSES,  # type: ignore[arg-type]
                    memory_bytes=int(MEMORY_PART * _memory())).right

            try:
                first = core.interleaved({"run": work}, 1)["run"][0]
                seconds = [first] if first > 20 else [first, *core.interleaved({"run": work}, 2, warm=False)["run"]]
            except (RuntimeError, MemoryError) as error:  # XLA's out of memory
                return _tell(case, n, ended=(str(error).splitlines() or [type(error).__name__])[0][:200])
            before = statistics.median(seconds)
            flops = plan.gradient_passes * n * gradient_flops(vectors) + plan.product_flops
            moved = 3.0 * plan.gradient_passes * n * vectors.shape[1] * vectors.scores.dtype.itemsize
            _tell(case, n, parameters=vectors.shape[1], block=block, seconds=seconds, flops=flops, bytes=moved,
                  peak_bytes=_peak())
    return None


def _plan(vectors: FisherVectors, case: Case, block: int) -> strategies.Plan:
    counts = strategies.plans(vectors.shape, strategies.Machine(0.0, 1e12, 1e12), rank=case.rank, oversampling=16,
                              passes=PASSES, block_rows=block, memory_bytes=int(MEMORY_PART * _memory()))
    return next(plan for plan in counts if plan.strategy == case.strategy)


def gradient_flops(vectors: FisherVectors) -> float:
    """Of one example's gradient, as XLA counts them before it optimises."""
    scores, example = vectors.scores, jnp.asarray(vectors.examples(0))[0]
    lowered = jax.jit(jax.grad(scores.log_density)).lower(scores.params, example, scores.key)
    return float((lowered.cost_analysis() or {}).get("flops", float("nan")))


def _tell(case: Case, n: int, **found: Any) -> None:
    print(json.dumps({"case": str(case), "examples": n, **found}), flush=True)


def _memory() -> int:
    """Bytes of the device, or of the machine where the device has none of its own."""
    known = jax.local_devices()[0].memory_stats() or {}
    return known.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _peak() -> int:
    """Bytes held at most so far, on the device where it counts them, else in the process."""
    known = jax.local_devices()[0].memory_stats() or {}
    return known.get("peak_bytes_in_use") or peak_bytes()


def beside_floor(row: dict[str, Any], precision: str, chip: dict[str, Any]) -> dict[str, Any]:
    """Rates reached, and how many times the floor the seconds are: the larger of flops at the matrix rate and bytes at
    the copy bandwidth (each gradient written once and read twice)."""
    seconds = statistics.median(row["seconds"])
    by_flops, by_bytes = row["flops"] / chip["matrix_flops"][precision], row["bytes"] / chip["copy_bytes"]
    return {"flops_per_second": row["flops"] / seconds, "bytes_per_second": row["bytes"] / seconds,
            "bound_by": "flops" if by_flops > by_bytes else "bytes", "times_floor": seconds / max(by_flops, by_bytes)}


# --- keeping and going on ---


class Kept:
    """The results file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def note(self, part: str, found: Any) -> None:
        self.content[part] = found
        self.content["environment"] = environment()
        durable.write_whole(self.path, json.dumps(self.content, indent=1).encode() + b"\n")


def slice_of_it(
    kept: Kept, size_name: str, *, minutes: float, case_seconds: float, again: bool, only: str
) -> bool:
    """As much as the minutes allow; True once nothing is left."""
    size, until = SIZES[size_name], time.monotonic() + 60 * minutes
    for name, part in (("correct", correct), ("rates", rates), ("accuracy", accuracy)):
        if name not in kept.content:
            with jax.default_matmul_precision(PRECISIONS["float32"]):  # or a GPU would take TF32
                kept.note(name, part(size))
            print(f"{name}: {json.dumps(kept.content[name])}", flush=True)
        if time.monotonic() > until:
            return False
    grid: dict[str, list[dict[str, Any]]] = kept.content.get("grid", {})
    for case in [case for case in cases(size) if re.search(only, str(case))]:
        rows = grid.setdefault(str(case), [])
        if again:
            rows[:] = [row for row in rows if "ended" not in row]
        if any("ended" in row for row in rows) or {row["examples"] for row in rows} >= {
                n for n in size.examples if n > case.rank}:
            continue
        if (left := until - time.monotonic()) <= 0:
            return False
        command = [sys.executable, "-m", "tests.benchmarks.grid", "--size", size_name, "--case", str(case),
                   "--case-seconds", str(case_seconds), "--known", *(str(row["examples"]) for row in rows)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            deadline = _ended_after(child, left)
            for line in child.stdout or ():
                row = json.loads(line)
                if "seconds" in row:
                    row |= beside_floor(row, case.precision, kept.content["rates"])
                rows.append({name: value for name, value in row.items() if name != "case"})
                kept.note("grid", grid)
                print(f"{case} n={row['examples']}: " + (row.get("ended") or (
                    f"{statistics.median(row['seconds']):.3g} s, {row['times_floor']:.1f} times the floor "
                    f"({row['bound_by']}), {row['peak_bytes'] / 2**30:.2f} GiB")), flush=True)
            deadline.cancel()
        if child.returncode and time.monotonic() < until:
            rows.append({"examples": size.examples[-1], "ended": f"its process ended with {child.returncode}"})
            kept.note("grid", grid)
    return time.monotonic() <= until


def _ended_after(child: subprocess.Popen[str], seconds: float) -> threading.Timer:
    timer = threading.Timer(seconds, child.kill)
    timer.daemon = True
    timer.start()
    return timer


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--size", choices=SIZES, default="full")
    options.add_argument("--minutes", type=float, default=8.0, help="of this slice (default 8)")
    options.add_argument("--case-seconds", type=float, default=60.0, help="no longer case is begun (default 60)")
    options.add_argument("--again", action="store_true", help="try again what ended before its last n")
    options.add_argument("--only", default="", help="cases NETWORK/RANK/PRECISION/STRATEGY that match this pattern")
    options.add_argument("--to", type=Path, help="JSON (default results/grid-DEVICE-SIZE.json)")
    options.add_argument("--case", help=argparse.SUPPRESS)
    options.add_argument("--known", nargs="*", type=int, default=[], help=argparse.SUPPRESS)
    asked = options.parse_args()
    if asked.case:
        name, rank, precision, strategy = asked.case.split("/")
        return run_case(Case(name, int(rank), precision, strategy), SIZES[asked.size], asked.case_seconds,
                        set(asked.known))
    device = jax.devices()[0].device_kind.lower().replace(" ", "-")
    kept = Kept(asked.to or RESULTS / f"grid-{device}-{asked.size}.json")
    whole = slice_of_it(kept, asked.size, minutes=asked.minutes, case_seconds=asked.case_seconds, again=asked.again,
                        only=asked.only)
    print(f"{'all there is' if whole else 'so far (run it again to go on)'}: {kept.path.name}")
    return None


if __name__ == "__main__":
    main()
