"""`retrieval`: how many of the images nearest to a query are of its class, by the embedding and by what it rivals.

Queries are the test images, the gallery the labelled training images. precision@c is the share of the c nearest that
have the query's class; mean average precision (MAP) takes the whole ranking: for each query the mean, over the
gallery's images of its class, of the precision at that image's rank. Cosine or Euclidean distance: whichever has the
higher MAP on the validation split. Cost: m n d multiply-adds a metric for m queries, n in the gallery; no learning.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer
from sklearn.metrics import pairwise_distances_chunked
from threadpoolctl import threadpool_limits

from nfk.evaluation.features import Features, Labels
from nfk.evaluation.figures.bars import ranked_bars
from nfk.evaluation.knn import METRICS, Metric
from nfk.studies.study import Findings, Material, Report, Table
from nfk.study_params import RetrievalParams


class Retrieved(NamedTuple):
    precision: dict[int, float]
    mean_average_precision: float
    standard_error: float
    """of the mean over queries"""


def run(material: Material, params: RetrievalParams, report: Report) -> Findings:
    labels = Labels(material.images.labels("train", material.labelled), material.images.labels("validation"),
                    material.images.labels("test"))
    compared = material.representations()
    found: dict[str, Any] = {}
    for done, features in enumerate(compared):
        report(done, len(compared), "representations")
        metric = best_metric(features, labels)
        result = retrieved(features.train, features.test, labels.train, labels.test, params.counts, metric)
        found[features.name] = {
            "dimension": features.dimension, "metric": metric, "map": result.mean_average_precision,
            "standard_error": result.standard_error,
            "precision": {str(count): value for count, value in result.precision.items()}}
    report(len(compared), len(compared), "representations")
    order = sorted(found, key=lambda name: -found[name]["map"])
    rows = tuple(
        (name, str(found[name]["dimension"]), found[name]["metric"],
         f"{100 * found[name]['map']:.1f} ± {100 * found[name]['standard_error']:.1f}",
         *(f"{100 * value:.1f}" for value in found[name]["precision"].values())) for name in order)
    return Findings(
        f"MAP {found[order[0]]['map']:.1%} by {order[0]}, first of {len(order)}", {"representations": found},
        Table(("representation", "numbers", "metric", "MAP, %", *(f"precision@{count}, %" for count in params.counts)),
              rows),
        {"map": ranked_bars({name: (100 * one["map"], 100 * one["standard_error"]) for name, one in found.items()},
                            ours=[name for name in order if name.startswith("nfk")],
                            label="Mean average precision, %", title="Images of the same class, nearest first")})


def best_metric(features: Features, labels: Labels) -> Metric:
    """The metric with the higher MAP on the validation split; the first of equals."""
    return max(METRICS, key=lambda metric: retrieved(
        features.train, features.validation, labels.train, labels.validation, (1,), metric).mean_average_precision)


def retrieved(
    gallery: Float[np.ndarray, "n d"], queries: Float[np.ndarray, "m d"], gallery_labels: Integer[np.ndarray, " n"],
    query_labels: Integer[np.ndarray, " m"], counts: tuple[int, ...], metric: Metric,
) -> Retrieved:
    """Precision and average precision over all queries; ties in distance keep the gallery's order."""
    relevant: list[Bool[np.ndarray, "b n"]] = []
    first = 0
    with threadpool_limits(limits=1):
        for distances in pairwise_distances_chunked(queries, gallery, metric=metric, working_memory=256):
            ranked = gallery_labels[np.argsort(distances, axis=1, kind="stable")]
            relevant.append(ranked == query_labels[first : first + len(ranked), None])
            first += len(ranked)
    hits = np.concatenate(relevant)
    each = np.sum(hits * np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1), axis=1) / np.maximum(
        hits.sum(axis=1), 1)
    return Retrieved({count: float(hits[:, :count].mean()) for count in counts}, float(each.mean()),
                     float(each.std(ddof=1) / np.sqrt(len(each))))
