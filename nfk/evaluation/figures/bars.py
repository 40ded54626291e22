"""Values ranked as bars, for tables too long to be read at a glance."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from matplotlib.figure import Figure

from nfk.evaluation.figures.style import BLUE, GREY, new_figure, styled


@styled
def ranked_bars(values: Mapping[str, tuple[float, float]], *, ours: Collection[str], label: str, title: str,
                limits: tuple[float, float] | None = None) -> Figure:
    """A bar for each name's (value, standard error), the largest on top; those of `ours` in blue, the others grey."""
    order = sorted(values, key=lambda name: -values[name][0])
    figure = new_figure(6.8, 0.9 + 0.24 * len(order) + 0.18 * title.count("\n"))
    axes = figure.subplots()
    axes.barh(order, [values[name][0] for name in order], xerr=[values[name][1] for name in order], height=0.7,
              color=[BLUE if name in ours else GREY for name in order])
    axes.invert_yaxis()
    if limits is not None:
        axes.set_xlim(*limits)
    axes.set_xlabel(label)
    axes.set_title(title)
    axes.grid(axis="y", visible=False)
    return figure
