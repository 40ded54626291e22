"""How a kernel's variance is spread over its components, and how well the kept ones were found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from nfk.evaluation.figures.style import BLUE, GREY, VERMILLION, End, label_ends, new_figure, styled

_CURVES = (("trained", "trained", BLUE, "-"), ("untrained", "untrained", VERMILLION, "-"),
           ("trained_uncentred", "trained, uncentred", BLUE, "--"),
           ("untrained_uncentred", "untrained, uncentred", VERMILLION, "--"))


@styled
def explained_variance(spectrum: Mapping[str, Any]) -> Figure:
    """r_k against k for the trained and the untrained network, centred and not.

    `spectrum` is that part of the metrics file: "components", a list of fractions for each curve, and those of every
    untrained network, whose range is shaded.
    """
    figure = new_figure(6.8, 4.1)
    axes = figure.subplots()
    axes.set_xscale("log")
    components = spectrum["components"]
    for key, title, colour, line in _CURVES:
        if spectrum.get(key):
            axes.plot(components, 100 * np.asarray(spectrum[key]), color=colour, linestyle=line, label=title)
    if len(draws := spectrum.get("untrained_draws", ())) > 1:
        axes.fill_between(components, 100 * np.min(draws, axis=0), 100 * np.max(draws, axis=0), color=VERMILLION,
                          alpha=0.15, linewidth=0, label=f"untrained, {len(draws)} initialisations")
    axes.set_xlim(components[0], components[-1])
    axes.set_ylim(0, 102)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    axes.axhline(99.5, color=GREY, linewidth=0.9, linestyle=":")
    axes.annotate("99.5 %", xy=(components[0], 99.5), xytext=(4, -3), textcoords="offset points", va="top",
                  color=GREY, fontsize=8.5)
    axes.legend(loc="lower right")
    axes.set_xlabel("Components k")
    axes.set_ylabel("Explained variance, %")
    axes.set_title("Spectrum of the Fisher kernel, whitened element-wise")
    return figure


@styled
def singular_values(values: Float[np.ndarray, " k"], residuals: Float[np.ndarray, " k"],
                    tolerance: float | None = None) -> Figure:
    """Singular values above, |V^T u_i - s_i w_i| / s_1 below, both on logarithmic axes."""
    figure = new_figure(6.8, 4.8)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1.2, 1))
    modes = np.arange(1, len(values) + 1)
    upper.loglog(modes, values, color=BLUE, marker="o", markersize=3, linewidth=1)
    upper.set_ylabel("Singular value $s_i$")
    upper.set_title("Kept modes of the matrix of Fisher vectors")
    lower.loglog(modes, np.maximum(residuals, np.finfo(np.float64).tiny), color=VERMILLION, marker="o",
                 markersize=3, linestyle="none")
    lower.set_ylabel("Residual / $s_1$")
    lower.set_xlabel("Mode i")
    lower.xaxis.set_major_formatter(FuncFormatter(lambda mode, _: f"{mode:,.0f}"))
    if tolerance is not None:
        lower.axhline(tolerance, color=GREY, linestyle="--", linewidth=1.2)
        lower.set_ylim(top=max(tolerance, residuals.max()) * 4)
        label_ends(lower, [End(tolerance, "tolerance", GREY)])
    return figure
