"""The documentation's tables of the numerical core, from results/core.json: python -m tests.benchmarks.tables

Replaces what stands between the markers of the page of results; `--check` only says whether it is up to date.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.benchmarks.core import RESULTS, quicker

PAGE = Path(__file__).parents[2] / "infra/docs/results.md"
MARKS = re.compile(r"(<!-- core: made by tests/benchmarks/tables.py -->\n).*?(<!-- /core -->)", re.DOTALL)
NAMES = {"lenet5": "LeNet-5", "dcgan-small": "small DCGAN", "dcgan": "DCGAN", "wrn-16-1": "WRN-16-1",
         "wrn-40-2": "WRN-40-2", "mlp": "perceptron", "vae": "VAE"}


def tables(kept: dict[str, Any]) -> str:
    """The Markdown of every section that was measured."""
    parts = []
    if found := kept.get("speed"):
        parts.append(table(
            "Speed, beside the paper's algorithm",
            ["network, k", "parameters", "n", "passes, oversampling", "`stream`, ms an example", "paper, ms", "ratio"],
            [[f"{called(name)}", f"{run['parameters']:,}", f"{run['examples']:,}",
              f"{run['passes']}, {run['oversampling']}", f"{median(run['stream_ms']):.2f}",
              f"{quicker(run['paper_ms'], run['paper_on_plain_convolutions_ms']):,.0f}", f"{run['ratio']:.0f}"]
             for name, run in found.items()]))
    if found := kept.get("gram"):
        parts.append(table(
            "Few images: the Gram matrix",
            ["network, k (n = 512)", "`gram`, s", "paper, s", "ratio"],
            [[called(name), f"{median(run['gram_s']):.2f}",
              f"{quicker(run['paper_s'], run['paper_on_plain_convolutions_s']):.1f}", f"{run['ratio']:.0f}"]
             for name, run in found.items()]))
    if found := kept.get("error"):
        parts.append(table(
            "Relative error of the eigenvalues",
            ["network, k", "way", "leading half", "all", "modes worse than the paper's", "estimate / true: least",
             "median"],
            [[called(name), way, power(run["leading_half"]), power(run["all"]),
              str(run.get("modes_worse_than_paper", "–")),
              *([f"{run['estimate_over_true']['least']:.1f}", f"{run['estimate_over_true']['median']:.1f}"]
                if "estimate_over_true" in run and run["all"] > 1e-12 else ["–", "–"])]
             for name, runs in found.items() for way, run in runs.items()
             if isinstance(run, dict) and "leading_half" in run]))
    if found := kept.get("transform"):
        parts.append(table(
            "The price of an embedding",
            ["network, k", "`transform`, ms an image", "gradient alone, ms", "ratio",
             "each layer whitened as a whole, unit length, ms", "ratio", "of gradients that are there, ms", "ratio"],
            [[called(name), f"{median(run['transform_ms']):.3f}", f"{median(run['gradients_ms']):.3f}",
              f"{run['ratio']:.2f}",
              *(cell for way in ("kronecker", "afterwards") for cell in (
                  [f"{median(run[way + '_ms']):.3f}", f"{run[way + '_ratio']:.2f}"] if way + "_ms" in run
                  else ["–", "–"]))] for name, run in found.items()]))
    if found := kept.get("peers"):
        parts.append(table(
            "Peers",
            ["network-n, k = 32", "by", "seconds", "eigenvalue error: leading half", "all"],
            [[called(name), peer, f"{median(run['seconds'][peer]):.2f}", power(error["leading_half"]),
              power(error["all"])] for name, run in found.items() for peer, error in run["error"].items()]))
    if found := kept.get("tangents"):
        parts.append(table(
            "Beside neural-tangents",
            ["network, n; k = 32", "kernel", "`gram`, s", "neural-tangents' quickest, s", "mode", "ratio"],
            [[called(name), kernel, f"{median(run[kernel]['gram_s']):.2f}",
              f"{run[kernel]['peers'][run[kernel]['best']]['seconds']:.2f}",
              run[kernel]["best"].replace("_", " "), f"{run[kernel]['ratio']:.2f}"]
             for name, run in found.items() for kernel in ("whitened", "plain")]))
    if found := kept.get("auto"):
        parts.append(table(
            "What `auto` takes",
            ["network-k-n", "`auto` took", "quickest", "`auto` / quickest"],
            [[called(name), "/".join(sorted(set(run["taken"]))), run["best"], f"{run['ratio']:.2f}"]
             for name, run in found.items()]))
    if found := kept.get("growth"):
        run = found["dcgan-small-32"]
        rounds = len(next(iter(run["runs"].values())))
        parts.append(table(
            "Growth with n",
            ["n", *(f"{n:,}" for n in run["examples"])],
            [[f"seconds, `stream` (runs: {rounds})", *(f"{value:.1f}" for value in run["seconds"])],
             ["peak memory, MB", *(f"{value / 1e6:.0f}" for value in run["peak_bytes"])]])
            + f"\nSlope of the log-log fit {run['slope']:.3f}; peak memory beyond the n x k outputs grows by "
              f"{100 * run['growth_beyond_outputs']:.1f} %.\n")
    return "\n".join(parts)


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def called(name: str) -> str:
    network = max((known for known in NAMES if name.startswith(known)), key=len)
    return f"{NAMES[network]}, {name[len(network) + 1:]}"


def power(error: float) -> str:
    """2.1e-07 -> 2e-07, with a hyphen at which no line is broken."""
    return f"{error:.0e}".replace("-", "\N{NON-BREAKING HYPHEN}")


def table(title: str, head: list[str], rows: list[list[str]]) -> str:
    lines = (f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))
    return f"### {title}\n\n" + "\n".join(lines) + "\n"


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    made = MARKS.sub(lambda match: f"{match[1]}\n{tables(json.loads(RESULTS.read_text()))}\n{match[2]}", text)
    if "--check" in sys.argv[1:]:
        sys.exit(made != text and "infra/docs/results.md is older than tests/benchmarks/results/core.json; run "
                                  "python -m tests.benchmarks.tables")
    PAGE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
