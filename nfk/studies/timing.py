"""`timing`: seconds of the leading modes against the number of images n, each way until it costs too much (the paper's
Figure 3, top).

The ways: `auto` and `stream`, the pipeline's; `jvp`, the paper's Algorithm 4 by Jacobian products (10 power iterations
and 10 columns more than asked for); `explicit`, the whole n x n Gram matrix of rows kept in memory, in float32, and
scikit-learn's TruncatedSVD of it with as many iterations, the paper's rival. n = 2^first, 2^(first + 1), ..., the
leading training images.

Timed from rows that no way has yet: gradients are in it, for `auto` its probe too, and in all but `explicit` the
estimate of the error from some rows in float64. A way's first n, and all that take less than `_COMPILED` seconds, are
run twice and the second one counts, so that compiling does not. A way ends, with the reason kept, where the next n
would take more than `seconds` (the last one's time grown in proportion to n, which no way beats), needs more than
`memory_gib`, or exceeds the training images; or where the machine has no such memory.

That all ways answer the same is looked at: `apart` is the largest relative difference of the leading half of s_i^2 from
the explicit matrix's, the largest of all n that both have. `devices`: a process has one number of them, so several
numbers are several studies. growth: the slope of log time over log n at a way's last
three n; 1 is linear.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from sklearn.decomposition import TruncatedSVD

from nfk.evaluation.figures.style import BLUE, GREY, SKY, VERMILLION, new_figure, styled
from nfk.fisher import strategies
from nfk.fisher.vectors import FisherVectors
from nfk.linalg.gram import gram_matrix
from nfk.linalg.rows import Progress, StoredRows
from nfk.studies.study import Findings, Material, Report, Table
from nfk.study_params import TimedWay, TimingParams

TITLES: dict[TimedWay, str] = {"auto": "auto", "stream": "stream", "jvp": "the paper's Algorithm 4",
                               "explicit": "Gram matrix, scikit-learn"}
_LINES: dict[TimedWay, tuple[str, str]] = {"auto": (SKY, "o"), "stream": (BLUE, "s"), "jvp": (VERMILLION, "^"),
                                           "explicit": (GREY, "D")}
_COMPILED = 20.0
_FITTED = 3


class Timed(NamedTuple):
    seconds: float
    squares: Float[np.ndarray, " k"]
    """s_i^2"""


class Curve(NamedTuple):
    """One way, as far as it went."""

    points: dict[int, Timed]
    """by n"""
    stopped: str
    """why not further; empty where `largest` was reached"""


def run(material: Material, params: TimingParams, report: Report) -> Findings:
    counts = [2**exponent for exponent in range(params.first, params.last + 1)]
    curves: dict[TimedWay, Curve] = {}
    for way in params.ways:
        curves[way] = _curve(material, way, counts, params, _titled(report, TITLES[way]))
    numbers = {
        "rank": params.rank, "parameters": material.scores.size, "images": counts,
        "devices": jax.local_device_count(), "ways": {
            way: {"seconds": {str(n): timed.seconds for n, timed in curve.points.items()},
                  "reached": max(curve.points, default=0), "stopped": curve.stopped, "growth": growth(curve.points),
                  "apart": apart(curve.points, curves["explicit"].points if "explicit" in curves else {}),
                  **_against(curve.points, curves["stream"].points if "stream" in curves else {})}
            for way, curve in curves.items()}}
    return Findings(_summary(numbers), numbers, _table(numbers), {"seconds": _figure(numbers)})


def _curve(material: Material, way: TimedWay, counts: list[int], params: TimingParams, progress: Progress) -> Curve:
    points: dict[int, Timed] = {}
    available = material.images.examples("train").shape[0]
    for n in counts:
        if n > available:
            return Curve(points, f"{n:,} images: there are {available:,} training images")
        vectors = material.vectors(material.images.examples("train", n))
        if why := _too_dear(vectors, way, params, points):
            return Curve(points, f"{n:,} images: {why}")
        try:
            run_once = partial(squares, vectors, way, params, material.key("svd"), _titled(progress, f"{n:,} images"))
            points[n] = _kept(material, f"{way} {n}", partial(timed, run_once, first=not points))
        except strategies.MemoryBudgetError:
            return Curve(points, f"{n:,} images: no strategy fits memory_gib={params.memory_gib:g}")
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return Curve(points, f"{n:,} images: the machine has no memory left for them")
    return Curve(points, "")


def _titled(progress: Progress, title: str) -> Progress:
    def show(done: int, total: int, what: str) -> None:
        progress(done, total, f"{title}, {what}")

    return show


def _too_dear(vectors: FisherVectors, way: TimedWay, params: TimingParams, points: dict[int, Timed]) -> str:
    """Why the next n is not tried; empty where it is. `auto` keeps to the memory by itself."""
    if points:
        last = max(points)
        expected = points[last].seconds * vectors.shape[0] / last
        if expected > params.seconds:
            return f"{expected:,.0f} s or more, above seconds={params.seconds:g}"
    if way != "auto":
        needed = _bytes(vectors, way, params) / 2**30
        if needed > params.memory_gib:
            return f"{needed:.1f} GiB, above memory_gib={params.memory_gib:g}"
    return ""


def _bytes(vectors: FisherVectors, way: TimedWay, params: TimingParams) -> float:
    return float(strategies.plan(vectors, way, rank=params.rank, oversampling=params.oversampling,
                                 passes=params.passes, memory_bytes=sys.maxsize).bytes)


def squares(
    vectors: FisherVectors, way: TimedWay, params: TimingParams, key: Any, progress: Progress
) -> Float[np.ndarray, " k"]:
    """The leading s_i^2 of V by one way, from nothing."""
    rank = min(params.rank, *vectors.shape)
    if way == "explicit":
        gram, _ = gram_matrix(StoredRows(vectors), double=False, progress=progress)
        seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
        found = TruncatedSVD(rank, n_iter=strategies.PAPER_POWER_ITERATIONS, random_state=seed,
                             n_oversamples=strategies.PAPER_OVERSAMPLING).fit(gram.astype(np.float32))
        return np.asarray(found.singular_values_, np.float64)
    memory = int(params.memory_gib * 2**30)
    chosen = way if way != "auto" else strategies.plan(
        vectors, "auto", rank=rank, oversampling=params.oversampling, passes=params.passes,
        memory_bytes=memory).strategy
    return strategies.decompose(vectors, chosen, rank=rank, key=key, oversampling=params.oversampling,
                                passes=params.passes, memory_bytes=memory, progress=progress).singular_values ** 2


def timed(
    work: Callable[[], Float[np.ndarray, " k"]], *, first: bool, clock: Callable[[], float] = time.perf_counter
) -> Timed:
    """One run, or the second of two where it is a way's first or was short: it may have compiled."""
    for _ in range(2):
        started = clock()
        found = work()
        seconds = clock() - started
        if seconds > _COMPILED and not first:
            break
    return Timed(seconds, found)


def growth(points: dict[int, Timed]) -> float | None:
    """The slope of log seconds over log n at the last three n; None for fewer than two."""
    last = sorted(points)[-_FITTED:]
    if len(last) < 2:
        return None
    return float(np.polyfit(np.log(last), np.log([points[n].seconds for n in last]), 1)[0])


def apart(points: dict[int, Timed], reference: dict[int, Timed]) -> float | None:
    """The largest relative difference of the leading half of the squares, over the n that both have."""
    found = [float(np.max(np.abs(mine[: len(mine) // 2] - other[: len(mine) // 2]) / other[: len(mine) // 2]))
             for n in points if n in reference
             for mine, other in ((points[n].squares, reference[n].squares),) if len(mine) > 1]
    return max(found, default=None)


def _against(points: dict[int, Timed], stream: dict[int, Timed]) -> dict[str, Any]:
    """Times that `stream` is quicker, at the largest n that both have."""
    if not (shared := points.keys() & stream.keys()):
        return {"compared_at": None, "times_stream": None}
    n = max(shared)
    return {"compared_at": n, "times_stream": points[n].seconds / stream[n].seconds}


def _kept(material: Material, name: str, measure: Callable[[], Timed]) -> Timed:
    """Measured, or from an earlier process that measured it."""
    if (known := material.checkpoint.load(name)) is not None:
        return Timed(float(known["seconds"][0]), known["squares"])
    found = measure()
    material.checkpoint.save(name, {"seconds": np.array([found.seconds]), "squares": found.squares})
    return found


def _summary(numbers: dict[str, Any]) -> str:
    def said(way: TimedWay, one: dict[str, Any]) -> str:
        if not one["reached"]:
            return f"{TITLES[way]} not run"
        n = one["reached"]
        return f"{TITLES[way]} {one['seconds'][str(n)]:,.1f} s for {n:,}"

    on = f" on {numbers['devices']} devices" if numbers["devices"] > 1 else ""
    return f"{numbers['rank']} modes of so many images{on}: " + ", ".join(
        said(way, one) for way, one in numbers["ways"].items())


def _table(numbers: dict[str, Any]) -> Table:
    ways = numbers["ways"]
    rows = [(f"{n:,}", *(f"{one['seconds'][str(n)]:,.2f}" if str(n) in one["seconds"] else "–"
                         for one in ways.values())) for n in numbers["images"]]

    def line(title: str, key: str, form: str) -> tuple[str, ...]:
        return (title, *("–" if one[key] is None else format(one[key], form) for one in ways.values()))

    return Table(("images", *(f"{TITLES[way]}, s" for way in ways)), (
        *rows, line("growth (1: linear)", "growth", ".2f"), line("largest difference of s^2", "apart", ".0e"),
        ("ended before", *(one["stopped"] or "–" for one in ways.values()))))


@styled
def _figure(numbers: dict[str, Any]) -> Figure:
    figure = new_figure(6.8, 4.4)
    axes = figure.subplots()
    counts = numbers["images"]
    for way, one in numbers["ways"].items():
        colour, marker = _LINES[way]
        reached = [n for n in counts if str(n) in one["seconds"]]
        seconds = [one["seconds"][str(n)] for n in reached]
        axes.loglog(reached, seconds, color=colour, marker=marker, markersize=4.5, linewidth=1.4, label=TITLES[way])
        if one["stopped"] and reached:
            axes.loglog(reached[-1:], seconds[-1:], color=colour, marker="x", markersize=11, markeredgewidth=2)
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(counts, [f"{n:,}" for n in counts])
    axes.set_xlabel("Images")
    axes.set_ylabel("Seconds")
    on = f", {numbers['devices']} devices" if numbers["devices"] > 1 else ""
    axes.set_title(f"Time of {numbers['rank']} modes{on} (crosses: the next was too dear)")
    figure.legend(loc="outside lower center", ncols=2)
    return figure
