"""One look for every figure, and the way a figure becomes a file.

Figures are made through matplotlib's objects, never through pyplot: no global state, nothing to close.
Colours are Okabe and Ito's, told apart by colour-blind readers, the light ones darkened to be read as text;
line styles and markers differ as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, cast

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression  # scikit-learn's would be 1.5 s of every `svd`

from nfk import durable

Arguments = ParamSpec("Arguments")

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#B85C93"
ORANGE, SKY, INK, GREY = "#B97F00", "#2F93CE", "#222222", "#6B6B6B"

DOTS_PER_INCH = 160
LINE = 13.0
"""Points from one line of text to the next."""

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif", "font.size": 9.5, "axes.titlesize": 10.5, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.labelsize": 9.5, "axes.labelcolor": INK, "text.color": INK,
    "axes.edgecolor": GREY, "axes.linewidth": 0.8, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#E4E4E4", "grid.linewidth": 0.7,
    "xtick.color": GREY, "ytick.color": GREY, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "lines.linewidth": 1.8, "lines.markersize": 5, "errorbar.capsize": 2.5, "legend.frameon": False,
    "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white",
}


def styled(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Draw under `STYLE`, whatever the caller's matplotlib settings are."""

    @wraps(draw)
    def drawn(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        with rc_context({**STYLE}):
            return draw(*args, **kwargs)

    return drawn


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of width x height inches that leaves room for its texts by itself."""
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path) -> None:
    """Write a PNG; equal figures give equal bytes. Makes the folder if need be."""
    image = BytesIO()
    figure.savefig(image, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    durable.write_whole(path, image.getbuffer())


class End(NamedTuple):
    """What a line is called at its right end, `height` in data units."""

    height: float
    text: str
    colour: str


def label_ends(axes: Axes, ends: Sequence[End]) -> None:
    """Name lines beside the axes' right edge, at their last heights, moved apart where they would collide.

    Call it last: the limits of the y axis are read here.
    """
    low, high = axes.get_ylim()
    points = 72 * 0.78 * cast(Figure, axes.figure).get_figheight()  # the axes' height; title and ticks take the rest
    gap = (high - low) * LINE / points
    for end, height in zip(ends, _apart([end.height for end in ends], gap, low, high), strict=True):
        axes.annotate(end.text, xy=(1, end.height), xytext=(1.04, height), color=end.colour, fontsize=9,
                      xycoords=axes.get_yaxis_transform(), textcoords=axes.get_yaxis_transform(), va="center",
                      annotation_clip=False, arrowprops={"arrowstyle": "-", "color": end.colour, "lw": 0.8,
                                                         "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 0})


def _apart(heights: Sequence[float], gap: float, low: float, high: float) -> np.ndarray:
    """The heights nearest to those given, in least squares, that keep their order and are `gap` apart.

    y_i - i gap must not fall: an isotonic regression.
    """
    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(len(order))
    moved = isotonic_regression(np.asarray(heights)[order] - steps).x.clip(low, high - steps[-1])
    apart = np.empty(len(order))
    apart[order] = moved + steps
    return apart
