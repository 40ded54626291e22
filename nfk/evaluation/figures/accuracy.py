"""Test accuracies: against the number of components, from few labels, of every representation, by class."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from sklearn.metrics import confusion_matrix

from nfk.evaluation.figures.names import called
from nfk.evaluation.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    End,
    label_ends,
    new_figure,
    styled,
)

_REFERENCES = {"full-fisher-vector": (GREEN, "-"), "activations-all": (PURPLE, "--"),
               "latent-mean": (ORANGE, (0, (4, 1, 1, 1))), "pixels": (GREY, ":")}
_SERIES = (("nfk", "NFK", BLUE, "o"), ("pca", "PCA of pixels", VERMILLION, "s"))


@styled
def accuracy_against_components(features: Mapping[str, Any], probe: str = "logistic") -> Figure:
    """NFK and PCA at each k with standard errors; representations of one size are lines with a band.

    `features` is that part of the metrics file; `probe` is "logistic" or "squared_hinge".
    """
    figure = new_figure(6.8, 4.1)
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    ends, ticks = [], set()
    for prefix, title, colour, marker in _SERIES:
        points = sorted((int(match[1]), features[name][probe]) for name in features
                        if (match := re.fullmatch(rf"{prefix}-(\d+)", name)))
        if not points:
            continue
        counts = [count for count, _ in points]
        heights = [100 * result["accuracy"] for _, result in points]
        axes.errorbar(counts, heights, yerr=[100 * result["standard_error"] for _, result in points],
                      color=colour, marker=marker, label=title, zorder=3)
        ends.append(End(heights[-1], f"{title}  {heights[-1]:.1f}", colour))
        ticks.update(counts)
    if not ticks:
        raise ValueError(f"no features named nfk-K or pca-K among {sorted(features)}")
    left, right = min(ticks) * 0.85, max(ticks) * 1.15
    for name, (colour, line) in _REFERENCES.items():
        if name in features:
            height, error = (100 * features[name][probe][key] for key in ("accuracy", "standard_error"))
            axes.axhline(height, color=colour, linestyle=line, linewidth=1.4, label=called(name))
            axes.axhspan(height - error, height + error, color=colour, alpha=0.10, linewidth=0)
            ends.append(End(height, f"{called(name)}  {height:.1f}", colour))
    axes.set_xlim(left, right)
    axes.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(sorted(ticks), [str(count) for count in sorted(ticks)])
    axes.set_xlabel("Components k")
    axes.set_ylabel("Test accuracy, % (± standard error)")
    axes.set_title({"logistic": "Logistic probe", "squared_hinge": "Squared-hinge probe"}[probe])
    label_ends(axes, ends)
    return figure


@styled
def accuracy_from_few_labels(features: Mapping[str, Any], names: Sequence[str]) -> Figure:
    """Mean accuracy against the number of labels, with the standard deviation over draws, of `names`."""
    figure = new_figure(6.8, 4.1)
    axes = figure.subplots()
    axes.set_xscale("log")
    looks = ((BLUE, "o"), (VERMILLION, "s"), (GREEN, "^"), (PURPLE, "D"), (ORANGE, "v"), (SKY, "P"), (GREY, "X"))
    if len(names) > len(looks):
        raise ValueError(f"{len(names)} lines cannot be told apart; choose at most {len(looks)}")
    ends, counts = [], set()
    for place, (name, (colour, marker)) in enumerate(zip(names, looks, strict=False)):
        results = {int(count): result for count, result in features[name]["few_labels"].items()}
        across = sorted(results)
        # set apart sideways, so that error bars do not hide one another
        shifted = [count * 1.035 ** (place - (len(names) - 1) / 2) for count in across]
        heights = [100 * results[count]["mean"] for count in across]
        axes.errorbar(shifted, heights, yerr=[100 * results[count]["standard_deviation"] for count in across],
                      color=colour, marker=marker, linewidth=1.5, label=called(name))
        ends.append(End(heights[-1], f"{called(name)}  {heights[-1]:.1f}", colour))
        counts.update(across)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(sorted(counts), [f"{count:,}" for count in sorted(counts)])
    axes.set_xlim(min(counts) / 1.2, max(counts) * 1.2)
    axes.set_xlabel("Labelled images, the same draws for every representation")
    axes.set_ylabel("Test accuracy, % (± sd over draws)")
    axes.set_title("Logistic probe from few labels")
    label_ends(axes, ends)
    return figure


@styled
def probe_accuracies(features: Mapping[str, Any]) -> Figure:
    """Every representation's probes with their standard errors, best logistic probe on top.

    Dots, not bars: the axis does not start at zero.
    """
    order = sorted(features, key=lambda name: features[name]["logistic"]["accuracy"])
    figure = new_figure(6.8, 1.2 + 0.27 * len(order))
    axes = figure.subplots()
    axes.grid(axis="x", visible=False)
    kinds = (("knn", "nearest neighbours", ORANGE, "D"), ("squared_hinge", "squared hinge", VERMILLION, "s"),
             ("logistic", "logistic", BLUE, "o"))
    for offset, (kind, title, colour, marker) in zip((-0.2, 0, 0.2), kinds, strict=True):
        results = [features[name][kind] for name in order]
        axes.errorbar([100 * result["accuracy"] for result in results], np.arange(len(order)) + offset,
                      xerr=[100 * result["standard_error"] for result in results], linestyle="none",
                      color=colour, marker=marker, markersize=4.5, elinewidth=1.1, label=title)
    axes.set_yticks(range(len(order)),
                    [f"{called(name)}  ({features[name]['dimension']:,})" for name in order])
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.grid(axis="x", visible=True)
    axes.set_xlabel("Test accuracy, % (± standard error)")
    axes.set_title("Representations (numbers an image)")
    handles, titles = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], titles[::-1], loc="outside lower center", ncols=3)
    return figure


@styled
def confusion(predictions: Integer[np.ndarray, " t"], labels: Integer[np.ndarray, " t"],
              classes: Sequence[str]) -> Figure:
    """Images of each class (rows) by predicted class (columns), as counts; shade: share of the row."""
    counts = confusion_matrix(labels, predictions, labels=np.arange(len(classes)))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 1.6 + 0.38 * len(classes)
    figure = new_figure(side + 0.4, side)
    axes = figure.subplots()
    axes.grid(visible=False)
    axes.imshow(shares, cmap=LinearSegmentedColormap.from_list("blues", ["white", BLUE]), vmin=0, vmax=1)
    for row, column in np.argwhere(counts):
        axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=8,
                  color="white" if shares[row, column] > 0.5 else INK)
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(range(len(classes)), classes)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("Predicted class")
    axes.set_ylabel("True class")
    axes.set_title(f"Test images: {np.trace(counts):,} of {counts.sum():,} right")
    return figure
