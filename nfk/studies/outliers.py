"""`outliers`: do Fisher vectors tell images of another kind from test images? The area under the ROC curve of scores.

Every score is fitted to training images alone, no outlier is seen and nothing is chosen. Of the network: the residual
|V_x|^2 - |W^T V_x|^2, what is outside the kept modes, and its share of |V_x|^2; |V_x|^2; of the embedding e the
Mahalanobis distance (mean and covariance of the training images') and the distance to the c-th nearest training image;
the potential, -s(x), and its distance from the training images' mean, |s(x) - mean s|. Against them the same residual,
Mahalanobis and nearest-neighbour scores of the pixels' principal components and of the activations'.

Cost: one gradient for each test image and outlier.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from sklearn.covariance import EmpiricalCovariance
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from nfk.data import photographs
from nfk.data.decode import Wanted
from nfk.data.image_set import DataError
from nfk.data.read import open_source
from nfk.data.subset import of_classes
from nfk.evaluation.activations import hidden_layers
from nfk.evaluation.auroc import auroc
from nfk.evaluation.figures.bars import ranked_bars
from nfk.evaluation.knn import METRICS
from nfk.fisher.embedding import embed, held_or_read
from nfk.linalg.rows import KeptRows, RowBlocks, block_bounds
from nfk.linalg.tall import Tall
from nfk.studies.study import Findings, Material, Report, Table
from nfk.study_params import OutliersParams

Scores = Float[np.ndarray, " m"]


class Rows(NamedTuple):
    """One representation of the training images, the test images and the outliers."""

    train: Float[np.ndarray, "n d"]
    test: Float[np.ndarray, "m d"]
    outliers: Float[np.ndarray, "o d"]


class Outliers(NamedTuple):
    pixels: UInt8[np.ndarray, "o h w c"]
    source: str
    digest: str
    """of what was read"""


def run(material: Material, params: OutliersParams, report: Report) -> Findings:
    outliers = read(params, material.images.shape)
    scored = {name: (inside, outside) for name, inside, outside in _scores(material, params, outliers.pixels, report)}
    found: dict[str, Any] = {name: auroc(*pair)._asdict() for name, pair in scored.items()}
    order = sorted(found, key=lambda name: -found[name]["value"])
    counts = len(material.embeddings["test"]), len(outliers.pixels)
    numbers = {"outliers": {"source": outliers.source, "digest": outliers.digest}, "counts": counts,
               "rank": material.modes.right.shape[1], "neighbours": params.neighbours, "scores": found}
    rows = tuple((name, f"{found[name]['value']:.3f} ± {found[name]['standard_error']:.3f}") for name in order)
    return Findings(
        f"AUROC {found[order[0]]['value']:.3f} by {order[0]}, first of {len(order)}; {counts[0]:,} test images against "
        f"{counts[1]:,}: {outliers.source}", numbers, Table(("score", "AUROC"), rows),
        {"auroc": ranked_bars(
            {name: (one["value"], one["standard_error"]) for name, one in found.items()},
            ours=[name for name in order if name.startswith(("nfk", "potential"))],
            label="Area under the ROC curve (0.5: tells nothing)", limits=(0.0, 1.0),
            title="\n".join(["Telling outliers from test images", *textwrap.wrap(outliers.source, 44)]))})


def read(params: OutliersParams, shape: tuple[int, int, int]) -> Outliers:
    """At most `params.most` images of the source's test part (all of it where it has none), evenly spread over it, made
    of the network's size and channels. DataError where there are none."""
    if params.source == photographs.NAME:
        pixels = photographs.pieces(shape)
        return Outliers(_spread(pixels, params.most), f"pieces of {shape[0]} x {shape[1]} pixels of two photographs",
                        "scikit-learn's")
    source = open_source(params.source, Wanted(size=shape[:2], channels="grey" if shape[2] == 1 else "colour"))
    if params.classes is not None:
        source = of_classes(source, params.classes)
    images = source.load().images[source.test_from or 0 :]
    if len(images) < 2:
        raise DataError(f"{params.source}: {len(images)} outliers; give a source, or classes, of at least 2")
    return Outliers(_spread(images, params.most), source.source, source.digest)


def _spread(images: UInt8[np.ndarray, "n h w c"], most: int) -> UInt8[np.ndarray, "m h w c"]:
    return images[np.linspace(0, len(images) - 1, min(most, len(images))).astype(int)]


def _scores(
    material: Material, params: OutliersParams, pixels: UInt8[np.ndarray, "o h w c"], report: Report
) -> Iterator[tuple[str, Scores, Scores]]:
    """Each score by name, of the test images and of the outliers: the larger, the less known."""
    images, rank = material.images, material.modes.right.shape[1]
    sets = [images.examples("test"), pixels.astype(np.float32) / np.float32(255)]
    vectors = [material.vectors(each) for each in sets]
    inside, outside = (projected(rows, material.modes.right, report, what, material.memory_bytes) for rows, what in
                       zip(vectors, ("test images", "outliers"), strict=True))
    yield "nfk residual", inside.residual, outside.residual
    if not material.unit_rows:  # all of length 1
        yield "nfk residual, share of length", *(each.residual / each.squared_norm for each in (inside, outside))
        yield "nfk length", inside.squared_norm, outside.squared_norm
    embedding = Rows(material.modes.left * material.modes.singular_values.astype(np.float32)[None, :],
                     inside.embedding, outside.embedding)
    yield from _mahalanobis("nfk", embedding)
    yield from _nearest("nfk", embedding, params.neighbours)
    known, *asked = (_potential(material, each) for each in (images.examples("train", material.labelled), *sets))
    yield "potential", -asked[0], -asked[1]
    yield "potential, either way", *(np.abs(each - known.mean()) for each in asked)
    flat = Rows(*(np.asarray(each[0 : each.shape[0]]).reshape(each.shape[0], -1)
                  for each in (images.examples("train", material.labelled), *sets)))
    batch = jax.jit(material.model.activations)
    layers = [hidden_layers(batch, each) for each in (images.examples("train", material.labelled), *sets)]
    compared = {"pixels": flat}
    if layers[0]:
        compared["activations"] = Rows(*(np.concatenate(list(each.values()), axis=1) for each in layers))
    for name, rows in compared.items():
        yield from _principal(name, rows, rank, material.seed)
        yield from _nearest(name, rows, params.neighbours)


class Projected(NamedTuple):
    """What the kept modes hold of each Fisher vector."""

    embedding: Float[np.ndarray, "m k"]
    squared_norm: Scores

    @property
    def residual(self) -> Scores:
        """|V_x - W W^T V_x|^2, W of orthonormal columns."""
        return np.maximum(self.squared_norm - np.sum(self.embedding.astype(np.float64) ** 2, axis=1), 0)


def projected(
    rows: RowBlocks, right: Tall, report: Report, what: str, memory_bytes: int = 4 * 2**30
) -> Projected:
    """W^T V_x and |V_x|^2 of each row. Cost: one pass. Memory: that of `nfk.fisher.embedding.embed`."""
    measured = _Measured(rows)
    embedding = embed(measured, held_or_read(right, memory_bytes), memory_bytes=memory_bytes,
                      progress=lambda done, total, _: report(done, total, f"Fisher vectors, {what}"))
    return Projected(embedding, measured.squared_norm)


class _Measured(KeptRows):
    """Rows, and |V_x|^2 of those that were asked for."""

    def __init__(self, rows: RowBlocks) -> None:
        self.shape, self.block_rows = rows.shape, rows.block_rows
        self.squared_norm = np.empty(rows.shape[0])
        self._rows = rows

    def block(self, index: int) -> Float[Array, "b p"]:
        block = self._rows.block(index)
        self.squared_norm[slice(*block_bounds(self, index))] = jnp.einsum("bp,bp->b", block, block, precision="highest")
        return block


def _potential(material: Material, examples: Any) -> Scores:
    """s(x) of each example."""
    scores = material.scores
    batch = jax.jit(jax.vmap(scores.log_density, (None, 0, None)))
    return np.concatenate([
        np.asarray(batch(scores.params, examples[start : start + material.block], scores.key), np.float64)
        for start in range(0, examples.shape[0], material.block)])


def _mahalanobis(name: str, rows: Rows) -> Iterator[tuple[str, Scores, Scores]]:
    """(e - m)^T C^-1 (e - m), m and C of the training rows; directions they do not span count for nothing."""
    fitted = EmpiricalCovariance().fit(rows.train.astype(np.float64))
    yield f"{name} Mahalanobis", fitted.mahalanobis(rows.test), fitted.mahalanobis(rows.outliers)


def _nearest(name: str, rows: Rows, count: int) -> Iterator[tuple[str, Scores, Scores]]:
    """Distance to the count-th nearest training row."""
    count = min(count, len(rows.train))
    for metric in METRICS:
        search = NearestNeighbors(n_neighbors=count, algorithm="brute", metric=metric).fit(rows.train)
        yield f"{name} {count} nearest, {metric}", *(search.kneighbors(each)[0][:, -1] for each in rows[1:])


def _principal(name: str, rows: Rows, rank: int, seed: int) -> Iterator[tuple[str, Scores, Scores]]:
    """The residual outside the leading principal components of the training rows, and the Mahalanobis distance in
    them."""
    fitted = PCA(min(rank, *rows.train.shape), random_state=seed).fit(rows.train)
    inside = Rows(*(fitted.transform(each) for each in rows))
    left = [np.maximum(np.sum((each - fitted.mean_) ** 2, axis=1, dtype=np.float64)
                       - np.sum(part**2, axis=1, dtype=np.float64), 0) for each, part in zip(rows, inside, strict=True)]
    yield f"{name} residual", left[1], left[2]
    yield from _mahalanobis(name, inside)
