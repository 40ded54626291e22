"""`eigenvalue_error`: how far each strategy's eigenvalues are from those of the exact kernel (the paper's Figure 3).

The reference is the n x n Gram matrix, in float64, of gradients in float64, centred and whitened by the same
statistics; lambda_i are its eigenvalues. Rows whose gradients in the two precisions differ by more than rounding
(a unit of the network lies within rounding of its kink) are other functions there: they are left out of every way,
and counted. Relative error of mode i: |s_i^2 - lambda_i| / lambda_i; absolute: |s_i^2 - lambda_i| / lambda_1.

The ways: `stream64` is block Krylov on the float64 rows (what the algorithm alone leaves), `stream` and `gram` are
the strategies as the pipeline runs them, and `paper` is Zhang et al.'s Algorithm 4 step by step, its products made with
the float32 rows in memory, in exact arithmetic those of the network's Jacobian.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.linalg
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from nfk.evaluation.figures.style import BLUE, GREEN, GREY, SKY, VERMILLION, new_figure, styled
from nfk.fisher import strategies
from nfk.fisher.vectors import FisherVectors
from nfk.linalg.blas import threads_for, threads_for_eigenproblem
from nfk.linalg.krylov import block_krylov
from nfk.linalg.rows import DenseRows, block_bounds, block_count
from nfk.linalg.subspace import DenseProducts, subspace_iteration
from nfk.studies.study import Findings, Material, Report, Table
from nfk.study_params import EigenvalueErrorParams, Way

_KINK = 1e-3
"""A row moved by more than this part of its norm from one precision to the other sits on a kink: rounding moves
rows by some 1e-6."""
_TITLES = {"stream64": "stream, float64 gradients", "gram": "gram, float32", "stream": "stream, float32",
           "paper": "the paper's Algorithm 4, float32"}
_COLOURS = {"stream64": SKY, "gram": GREEN, "stream": BLUE, "paper": VERMILLION}
_MOST_OF_VARIANCE = 0.5
_MEMORY = 8 << 30


class Squares(NamedTuple):
    """What one way found."""

    values: Float[np.ndarray, " k"]
    """s_i^2"""
    passes: int
    estimates: Float[np.ndarray, " k"] | None
    """of their relative errors, where the way makes any"""


def run(material: Material, params: EigenvalueErrorParams, report: Report) -> Findings:
    examples = np.asarray(material.images.examples("train", params.examples)[0 : params.examples])
    exact, smooth = _float64_rows(material.vectors(examples), report)
    vectors = material.vectors(examples[smooth])
    rank = min(params.rank, *vectors.shape)
    truth, total = _eigenvalues(exact, rank)
    variance = np.cumsum(truth) / total
    leading = min(int(np.searchsorted(variance, _MOST_OF_VARIANCE)) + 1, rank)
    found: dict[str, Any] = {}
    for way in params.ways:
        started = time.perf_counter()
        squares = _found(way, vectors, exact, rank, material, params, _named(report, way))
        errors = np.abs(squares.values - truth)
        relative = errors / truth
        found[way] = {
            "relative": relative.tolist(), "absolute": (errors / truth[0]).tolist(), "passes": squares.passes,
            "leading": float(relative[:leading].max()), "all": float(relative.max()),
            "estimates": None if squares.estimates is None else squares.estimates.tolist(),
            "seconds": time.perf_counter() - started}
    numbers = {
        "examples": len(examples), "at_a_kink": int((~smooth).sum()), "parameters": vectors.shape[1], "rank": rank,
        "explained_variance": variance.tolist(), "leading_modes": leading, "ways": found}
    rows = tuple(
        (_TITLES[way], f"{result['leading']:.1e}", f"{result['all']:.1e}", f"{max(result['absolute']):.1e}",
         str(result["passes"]), f"{result['seconds']:,.0f}") for way, result in found.items())
    half = f"first {leading} modes" if leading > 1 else "first mode"
    summary = "; ".join(f"{_TITLES[way]}: {result['leading']:.0e} / {result['all']:.0e}"
                        for way, result in found.items())
    return Findings(
        f"relative error of eigenvalues, {half} / all {rank}: {summary}", numbers,
        Table(("way", f"largest relative error, {half}", f"all {rank}", "absolute, of the first", "passes", "seconds"),
              rows),
        {"errors": _figure(found, variance)})


def _named(report: Report, way: str) -> Report:
    return lambda done, total, what: report(done, total, f"{way}, {what}")


def _found(
    way: Way, vectors: FisherVectors, exact: Float[np.ndarray, "m p"], rank: int, material: Material,
    params: EigenvalueErrorParams, report: Report,
) -> Squares:
    key = material.key("svd")
    if way == "paper":
        single = np.concatenate([np.asarray(vectors.block(index)) for index in range(block_count(vectors))])
        _, values, _ = subspace_iteration(DenseProducts(single), rank=rank, key=key, progress=report)
        return Squares(values[:rank] ** 2, strategies.PAPER_POWER_ITERATIONS + 1, None)
    if way == "stream64":
        with jax.enable_x64(True):
            factors = block_krylov(DenseRows(exact, material.block), rank=rank, key=key, passes=params.passes,
                                   oversampling=params.oversampling, dtype=np.float64, progress=report)
    else:
        factors = strategies.decompose(vectors, way, rank=rank, key=key, oversampling=params.oversampling,
                                       passes=params.passes, memory_bytes=_MEMORY, progress=report)
    return Squares(factors.singular_values**2, factors.passes, factors.errors)


def _eigenvalues(rows: Float[np.ndarray, "m p"], count: int) -> tuple[Float[np.ndarray, " k"], float]:
    """The `count` largest eigenvalues of R R^T, descending, and the sum of all."""
    with threads_for(2 * len(rows) * rows.size):
        gram = rows @ rows.T
    with threads_for_eigenproblem(len(gram)):
        found = scipy.linalg.eigh(gram, eigvals_only=True, subset_by_index=(len(gram) - count, len(gram) - 1))
    return found[::-1], float(np.trace(gram))


def _float64_rows(vectors: FisherVectors, report: Report) -> tuple[Float[np.ndarray, "m p"], Bool[np.ndarray, " n"]]:
    """The rows from gradients in float64, without those at a kink, and which are left. Holds 8 n p bytes."""
    rows, smooth = np.empty(vectors.shape), np.empty(vectors.shape[0], bool)
    exact = vectors.whitening64
    for index in range(block_count(vectors)):
        bounds = slice(*block_bounds(vectors, index))
        single = np.asarray(vectors.block(index), np.float64)
        with jax.enable_x64(True):
            gradients = vectors.scores.in_float64(np.asarray(vectors.examples(index), np.float64))
            rows[bounds] = np.asarray(exact(gradients))
        apart = np.linalg.norm(rows[bounds] - single, axis=1)
        smooth[bounds] = apart <= _KINK * np.linalg.norm(rows[bounds], axis=1)
        report(bounds.stop, vectors.shape[0], "gradients in float64")
    return (rows if smooth.all() else rows[smooth]), smooth


@styled
def _figure(found: dict[str, Any], variance: Float[np.ndarray, " k"]) -> Figure:
    figure = new_figure(6.8, 5.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1.6, 1))
    modes = np.arange(1, len(variance) + 1)
    for name, result in found.items():
        upper.loglog(modes, np.maximum(result["relative"], 1e-16), color=_COLOURS[name], linewidth=1.2,
                     label=_TITLES[name])
    upper.axhline(np.finfo(np.float32).eps, color=GREY, linewidth=0.9, linestyle=":")
    upper.annotate("float32", xy=(1, np.finfo(np.float32).eps), xycoords=("axes fraction", "data"), xytext=(3, 0),
                   textcoords="offset points", va="center", color=GREY, fontsize=8.5, annotation_clip=False)
    upper.set_ylabel("Relative error")
    upper.set_title("Eigenvalues against a float64 Gram matrix")
    figure.legend(loc="outside lower center", ncols=2)
    lower.semilogx(modes, 100 * variance, color=GREY)
    lower.set_ylim(0, 102)
    lower.set_ylabel("Explained, %")
    lower.set_xlabel("Mode")
    lower.xaxis.set_major_formatter(FuncFormatter(lambda mode, _: f"{mode:,.0f}"))
    return figure
