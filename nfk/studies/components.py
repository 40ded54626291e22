"""`components`: what the leading components mean: how alike in class the images at their two ends are (Figure 6).

The purity of an end is the share of its commonest class among the images with the largest, or the most negative,
projections. Beside the embedding stand the principal components of the pixels and of the activations; chance is the
mean purity of as many training images drawn at random.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int, Integer

from nfk.evaluation.components import extremes
from nfk.evaluation.features import Features
from nfk.evaluation.figures.images import component_ends
from nfk.studies.study import Findings, Material, Report, Table
from nfk.study_params import ComponentsParams

_DRAWS, _SHOWN = 1000, 8
_ACTIVATIONS = "activations-all-pca-"


def run(material: Material, params: ComponentsParams, report: Report) -> Findings:
    labels = material.images.labels("train", material.labelled)
    compared = {features.name: features for features in _compared(material.representations())}
    own = next(iter(compared))
    count = min(params.components, *(features.dimension for features in compared.values()))
    found: dict[str, Any] = {}
    for done, (name, features) in enumerate(compared.items()):
        report(done, len(compared), "representations")
        ends = extremes(features.train, components=count, images=params.images)
        largest, smallest = purity(labels[ends.largest]), purity(labels[ends.smallest])
        found[name] = {"largest": largest, "smallest": smallest, "mean_largest": float(np.mean(largest)),
                       "mean": float(np.mean(largest + smallest))}
    report(len(compared), len(compared), "representations")
    rng = np.random.default_rng(material.seed)
    drawn = np.stack([rng.choice(len(labels), params.images, replace=False) for _ in range(_DRAWS)])
    chance = float(np.mean(purity(labels[drawn])))
    numbers = {"images": params.images, "chance": chance, "representations": found}
    rows = [(name, f"{100 * one['mean']:.0f}", *(f"{100 * a:.0f} / {100 * b:.0f}" for a, b in
                                                 zip(one["largest"], one["smallest"], strict=True)))
            for name, one in found.items()]
    pictures = {name.partition("-")[0]: component_ends(
        material.images.pixels("train", material.labelled) / np.float32(255),
        extremes(features.train, components=count, images=min(_SHOWN, params.images)))
        for name, features in compared.items()}
    return Findings(
        f"{found[own]['mean']:.0%} of the {params.images} images at an end of a component are of one class, "
        f"{chance:.0%} by chance",
        numbers, Table(("representation", "purity, %", *(f"component {number + 1}, largest / most negative"
                                                         for number in range(count))),
                       (*rows, ("chance", f"{100 * chance:.0f}", *[""] * count))), pictures)


def _compared(representations: list[Features]) -> list[Features]:
    """The widest embedding, then the most principal components there are of the pixels and of the activations."""
    widest = {kind: max(each, key=lambda features: features.dimension) for kind in ("nfk-", "pca-", _ACTIVATIONS)
              if (each := [features for features in representations if features.name.startswith(kind)])}
    return list(widest.values())


def purity(labels: Integer[np.ndarray, "ends images"]) -> list[float]:
    """The share of the commonest class in each row."""
    def share(row: Int[np.ndarray, " images"]) -> float:
        return float(np.bincount(row).max() / len(row))

    return [share(row) for row in labels]
