"""Grids of images: samples, the ends of components, nearest neighbours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath

from nfk.evaluation.components import Extremes
from nfk.evaluation.figures.style import BLUE, GREY, VERMILLION, styled

CELL = 0.52
"""Inches from one image to the next."""
_SIDE, _EDGE = 0.48, 0.05  # inches a side of one image; around all
_MOST_LETTERS = 20  # of a class's name
_NAME: dict[str, Any] = {"fontsize": 9.5}
_TITLE: dict[str, Any] = {"fontsize": 10.5, "fontweight": "bold"}


@styled
def samples(images: Float[np.ndarray, "n h w c"], columns: int = 10, title: str = "") -> Figure:
    """Images in [0, 1] in reading order, `columns` a row."""
    head = 0.3 if title else _EDGE
    page = _Page(max(CELL * columns, _width(title, **_TITLE)) + 2 * _EDGE, CELL * -(-len(images) // columns) + head)
    for place, image in enumerate(images):
        page.show(image, _EDGE + CELL * (place % columns), head + CELL * (place // columns))
    if title:
        page.write(title, _EDGE, head / 2, va="center", **_TITLE)
    return page.figure


@styled
def labelled_rows(rows: Mapping[str, Float[np.ndarray, "n h w c"]]) -> Figure:
    """A row of images in [0, 1] under each name, as many in each."""
    columns, names = len(next(iter(rows.values()))), 0.15 + max(_width(name, **_NAME) for name in rows)
    page = _Page(names + CELL * columns + _EDGE, CELL * len(rows) + _EDGE)
    for row, (name, images) in enumerate(rows.items()):
        page.show_row(np.clip(images, 0, 1), names, _EDGE + CELL * row, name)
    return page.figure


@styled
def component_ends(images: Float[np.ndarray, "n h w c"], ends: Extremes) -> Figure:
    """A row for each component: the images with the largest projections, and those with the smallest."""
    rows, each = ends.largest.shape
    titles = "Largest projections", "Most negative projections"
    widths = [max(CELL * each, _width(title, **_TITLE)) for title in titles]
    names, head = 0.15 + _width(f"Component {rows}", **_NAME), 0.32
    second = names + widths[0] + CELL / 2
    page = _Page(second + widths[1] + _EDGE, head + CELL * rows + _EDGE)
    for row in range(rows):
        top = head + CELL * row
        page.show_row(images[ends.largest[row]], names, top, f"Component {row + 1}")
        page.show_row(images[ends.smallest[row]], second, top)
    for left, title in zip((names, second), titles, strict=True):
        page.write(title, left, head / 2, va="center", **_TITLE)
    return page.figure


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
    rows, each = found_labels.shape
    shown = {label: "" if len(classes) == 1 else _shortened(classes[label])
             for label in np.union1d(query_labels, found_labels).tolist()}
    same = np.mean(found_labels == query_labels[:, None])
    share = "" if len(classes) == 1 else f" ({100 * same:.0f} % of its class)"
    heading = f"Query | nearest training images{share}"
    across = max(1.12 * CELL, *(0.06 + _width(f"{name} ×", 8.0, "bold") for name in shown.values()))
    down, head, above = 1.35 * CELL, 0.35, 0.17  # a name stands above each
    page = _Page(max(across * (each + 1.3), 0.2 + _width(heading, 10.0)), down * rows + head + _EDGE)
    for row in range(rows):
        top = head + above + down * row
        cells = [(queries[row], query_labels[row]), *zip(found[row], found_labels[row], strict=True)]
        for column, (image, label) in enumerate(cells):
            left = (across - _SIDE) / 2 + across * (column + 0.3 * (column > 0))
            own, name = label == query_labels[row], shown[int(label)]
            page.show(image, left, top, *(() if own else (VERMILLION, 2.0)))
            page.write(name if own else f"{name} ×", left + _SIDE / 2, top - 0.03, ha="center", fontsize=8,
                       fontweight="normal" if own and column else "bold",
                       color=VERMILLION if not own else BLUE if column else None)
    page.figure.suptitle(heading, fontsize=10)
    return page.figure


class _Page:
    """A figure of width x height inches, drawn on in inches from its upper left corner.

    All images share one pair of axes that cover it: axes of their own take 40 ms an image, ten seconds of `evaluate`.
    """

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width, height))
        self._axes = self.figure.add_axes((0, 0, 1, 1))
        self._axes.set_axis_off()
        self._axes.set(xlim=(0, width), ylim=(height, 0))

    def show(self, image: Float[np.ndarray, "h w c"], left: float, top: float, colour: str = GREY,
             points: float = 0.3) -> None:
        """The image in [0, 1], in the middle of a square of `_SIDE` that its longer side fills, in a frame of that
        colour and so many points."""
        height, width, channels = image.shape
        across, down = _SIDE * width / max(height, width), _SIDE * height / max(height, width)
        left, top = left + (_SIDE - across) / 2, top + (_SIDE - down) / 2
        self._axes.imshow(image[..., 0] if channels == 1 else image, cmap="gray" if channels == 1 else None, vmin=0,
                          vmax=1, interpolation="nearest", aspect="auto",
                          extent=(left, left + across, top + down, top))
        self._axes.add_patch(Rectangle((left, top), across, down, fill=False, edgecolor=colour, linewidth=points))

    def show_row(self, images: Iterable[Float[np.ndarray, "h w c"]], left: float, top: float, name: str = "") -> None:
        for column, image in enumerate(images):
            self.show(image, left + CELL * column, top)
        if name:
            self.write(name, left - 0.08, top + _SIDE / 2, ha="right", va="center", **_NAME)

    def write(self, text: str, left: float, top: float, **look: Any) -> None:
        self._axes.text(left, top, text, **look)


def _width(text: str, fontsize: float, fontweight: str = "normal") -> float:
    """Inches that a line of text takes at most: drawn, its letters are moved to whole pixels."""
    if not text:
        return 0.0
    outline = TextPath((0, 0), text, prop=FontProperties(size=fontsize, weight=fontweight)).get_extents()
    return 1.08 * float(outline.width) / 72 + 0.02


def _shortened(name: str) -> str:
    return name if len(name) <= _MOST_LETTERS else f"{name[:_MOST_LETTERS - 1]}…"
