"""Grids of images: samples, the ends of components, nearest neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from jaxtyping import Float, Integer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from nfk.evaluation.components import Extremes
from nfk.evaluation.figures.style import BLUE, GREY, VERMILLION, new_figure, styled

CELL = 0.52
"""Inches a side of one image."""


@styled
def samples(images: Float[np.ndarray, "n h w c"], columns: int = 10, title: str = "") -> Figure:
    """Images in [0, 1] in reading order, `columns` a row."""
    rows = -(-len(images) // columns)
    figure = new_figure(CELL * columns + 0.1, CELL * rows + (0.35 if title else 0.1))
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, image in zip(cells, images, strict=False):
        _show(axes, image)
    for axes in cells[len(images):]:
        axes.set_visible(False)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    return figure


@styled
def labelled_rows(rows: Mapping[str, Float[np.ndarray, "n h w c"]]) -> Figure:
    """A row of images in [0, 1] under each name, as many in each."""
    columns = len(next(iter(rows.values())))
    figure = new_figure(CELL * columns + 1.7, CELL * len(rows) + 0.1)
    cells = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, images) in zip(cells, rows.items(), strict=True):
        for axes, image in zip(line, images, strict=True):
            _show(axes, np.clip(image, 0, 1))
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=6)
    return figure


@styled
def component_ends(images: Float[np.ndarray, "n h w c"], ends: Extremes) -> Figure:
    """A row for each component: the images with the largest projections, and those with the smallest."""
    rows, each = ends.largest.shape
    width, height = CELL * (2 * each + 0.7) + 1.2, CELL * rows + 0.4
    figure = new_figure(width, height)
    # the titles reach over many columns: room is kept for them here, or the first column would widen
    cast(ConstrainedLayoutEngine, figure.get_layout_engine()).set(rect=(0, 0, 1, 1 - 0.27 / height))
    cells = figure.subplots(rows, 2 * each + 1, squeeze=False, width_ratios=[1] * each + [0.5] + [1] * each)
    for axes in cells[:, each]:
        axes.set_visible(False)
    for half, chosen, title in ((cells[:, :each], ends.largest, "Largest projections"),
                                (cells[:, each + 1:], ends.smallest, "Most negative projections")):
        for axes, index in zip(half.ravel(), chosen.ravel(), strict=True):
            _show(axes, images[index])
        half[0, 0].text(0, 1.1, title, transform=half[0, 0].transAxes, va="bottom", fontsize=10.5,
                        fontweight="bold").set_in_layout(False)
    for row, axes in enumerate(cells[:, 0]):
        axes.set_ylabel(f"Component {row + 1}", rotation=0, ha="right", va="center", labelpad=6)
    return figure


@styled
def neighbours(
    queries: Float[np.ndarray, "q h w c"],
    query_labels: Integer[np.ndarray, " q"],
    found: Float[np.ndarray, "q m h w c"],
    found_labels: Integer[np.ndarray, "q m"],
    classes: Sequence[str],
) -> Figure:
    """Each query with its nearest training images, nearest first; other classes are framed and marked ×, a class
    that is the only one is not named."""
    classes = ("",) if len(classes) == 1 else classes
    rows, each = found_labels.shape
    figure = new_figure(CELL * 1.12 * (each + 1.6) + 0.2, CELL * 1.42 * rows + 0.65)
    cells = figure.subplots(rows, each + 2, squeeze=False, width_ratios=[1, 0.25, *[1] * each])
    for row in range(rows):
        cells[row, 1].set_visible(False)
        _show(cells[row, 0], queries[row])
        cells[row, 0].set_title(classes[query_labels[row]], loc="center", fontsize=8, fontweight="bold", pad=2)
        for axes, image, label in zip(cells[row, 2:], found[row], found_labels[row], strict=True):
            _show(axes, image)
            same = label == query_labels[row]
            axes.set_title(classes[label] if same else f"{classes[label]} ×", loc="center", fontsize=8,
                           fontweight="normal" if same else "bold", pad=2, color=BLUE if same else VERMILLION)
            if not same:
                axes.spines[:].set(visible=True, color=VERMILLION, linewidth=2)
    same = np.mean(found_labels == query_labels[:, None])
    share = "" if len(classes) == 1 else f" ({100 * same:.0f} % of its class)"
    figure.suptitle(f"Query | nearest training images{share}", fontsize=10)
    return figure


def _show(axes: Axes, image: Float[np.ndarray, "h w c"]) -> None:
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    grey = image.shape[-1] == 1
    axes.imshow(image[..., 0] if grey else image, cmap="gray" if grey else None, vmin=0, vmax=1,
                interpolation="nearest")
    axes.spines[:].set(visible=True, color=GREY, linewidth=0.3)
