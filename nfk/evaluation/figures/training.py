"""How a training went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nfk.evaluation.figures.style import BLUE, GREEN, ORANGE, PURPLE, VERMILLION, new_figure, styled


@styled
def trained_elsewhere() -> Figure:
    """In the place of curves, where there is no history."""
    figure = new_figure(4.6, 1.2)
    figure.text(0.5, 0.5, "Trained elsewhere: no history", ha="center", va="center")
    return figure


_TOGETHER = ("loss", "accuracy")
_SPELT = {"elbo": "ELBO", "kl": "KL divergence"}


@styled
def training_curves(history: Mapping[str, Sequence[float]]) -> Figure:
    """One number an epoch under each name. What is measured on both splits (elbo, validation_elbo) shares a panel, and
    so do all losses and all accuracies."""
    panels: dict[str, list[str]] = {}
    for name in history:
        panels.setdefault(_quantity(name), []).append(name)
    if not panels:
        raise ValueError("the training history is empty; there is nothing to draw")
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = new_figure(max(3.4 * columns, 4.6), 2.9 * rows)
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (quantity, names) in zip(cells, panels.items(), strict=False):
        for name, colour, line in zip(names, (BLUE, VERMILLION, GREEN, PURPLE, ORANGE) * len(names),
                                      ("-", "--", "-.", ":", (0, (5, 1))) * len(names), strict=False):
            label = name.removesuffix(quantity).strip("_").replace("_", " ") or "training"
            axes.plot(range(1, len(history[name]) + 1), history[name], color=colour, linestyle=line,
                      linewidth=1.4, label=label)
        axes.set_title(_SPELT.get(quantity, quantity.replace("_", " ").capitalize()))
        axes.set_xlabel("Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, steps=[1, 2, 5, 10]))
        if len(names) > 1:
            axes.legend(loc="best", fontsize=8.5)
    for axes in cells[len(panels):]:
        axes.set_visible(False)
    return figure


def _quantity(name: str) -> str:
    kind = name.rpartition("_")[2]
    return kind if kind in _TOGETHER else name.removeprefix("validation_")
