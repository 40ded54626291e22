"""`attribution`: are the training images nearest to a test image those that its prediction rests on?

For each query (test images drawn at random) the `removed` training images of its class that are nearest to it are left
out, what was trained on them is trained again, and the query's log odds ln(p / (1 - p)) of its own class are compared
with those before: the drop. Nearest by the kernel of the kept modes <e(x), e(z)>; by its cosine; by the network's
activations (cosine of their principal components); by the pixels (Euclidean); and at random, the control. Each way's
drop is paired with the control's, query by query.

`probe`: a logistic regression on the activations' principal components (the pixels where the network tells none), its
strength chosen on validation with all images in: cheap, and a convex problem whose change is due to the images alone.
The features still come from a network that has seen them. `network`: a classifier trained again from the same start,
the images left out replaced by others of their class, drawn by the same random numbers for every way, so that classes
and batches keep their sizes: dear, few queries, and with the noise of training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Integer
from matplotlib.figure import Figure
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import cosine_similarity, euclidean_distances
from threadpoolctl import threadpool_limits

from nfk.evaluation.features import Features, Labels, standardise
from nfk.evaluation.figures.style import BLUE, GREY, new_figure, styled
from nfk.evaluation.linear_classifiers import C_PER_STRENGTH, LOGISTIC_TOLERANCE, MOST_STEPS, logistic_path
from nfk.evaluation.linear_probe import best_on_validation
from nfk.models.families import initial
from nfk.studies.study import Findings, Material, Report, Table
from nfk.study_params import AttributionParams

RANDOM = "random"

Removals = dict[str, Int[np.ndarray, "q m"]]
"""By way, the training rows left out for each query, nearest first"""


class Refitted(NamedTuple):
    """A query before, and after its nearest images were left out."""

    before: Float[np.ndarray, " classes"]
    after: Float[np.ndarray, " classes"]
    """log probabilities, or logits"""


def run(material: Material, params: AttributionParams, report: Report) -> Findings:
    images = material.images
    labels = Labels(images.labels("train", material.labelled), images.labels("validation"), images.labels("test"))
    compared = {features.name: features for features in material.representations()}
    rng = np.random.default_rng([material.seed, len(labels.test)])
    queries = rng.permutation(len(labels.test))[: params.queries]
    embedding = max((one for name, one in compared.items() if name.startswith("nfk-")), key=lambda one: one.dimension)
    activations = next((one for name, one in compared.items() if name.startswith("activations-all-pca-")), None)
    removals = nearest_of_class(embedding, compared["pixels"], activations, labels, queries,
                                params.removed, rng)
    read = standardise(activations or compared["pixels"])
    strength, without = _probe(read, labels, params.strengths)
    numbers: dict[str, Any] = {
        "queries": len(queries), "removed": params.removed, "probe_reads": read.name, "strength": strength,
        "probe": _drops(without, removals, queries, labels.test, lambda done, total: report(
            done, total, "probes without the nearest"))}
    if params.retrained:
        few = {way: rows[: params.retrained] for way, rows in removals.items()}
        numbers["retrained"] = min(params.retrained, len(queries))
        numbers["network"] = _drops(
            _network(material, labels, rng), few, queries[: params.retrained], labels.test, lambda done, total: report(
                done, total, "networks trained again"), kept=material.checkpoint)
    return Findings(_summary(numbers), numbers, _table(numbers), {"drops": _figure(numbers)})


def nearest_of_class(
    embedding: Features, pixels: Features, activations: Features | None, labels: Labels, queries: Int[np.ndarray, " q"],
    count: int, rng: np.random.Generator,
) -> Removals:
    """For each query the `count` training images of its class nearest by each way. ValueError where a class has too
    few."""
    smallest = int(np.bincount(labels.train)[np.unique(labels.test[queries])].min())
    if count >= smallest:
        raise ValueError(f"removed={count} leaves nothing of a class of {smallest} training images; lower it")
    likeness: dict[str, Float[np.ndarray, "q n"]] = {
        "NFK kernel": embedding.test[queries] @ embedding.train.T,
        "NFK cosine": cosine_similarity(embedding.test[queries], embedding.train),
        **({} if activations is None else {
            "activations": cosine_similarity(activations.test[queries], activations.train)}),
        "pixels": -euclidean_distances(pixels.test[queries], pixels.train),
        RANDOM: rng.random((len(queries), len(labels.train)))}
    others = labels.train[None, :] != labels.test[queries][:, None]
    return {way: np.argsort(np.where(others, np.inf, -near), axis=1, kind="stable")[:, :count]
            for way, near in likeness.items()}


def log_odds(scores: Float[np.ndarray, " classes"], label: int) -> float:
    """ln(p / (1 - p)) of a class, of logits or log probabilities."""
    return float(scores[label] - logsumexp(np.delete(scores, label)))


Without = Callable[[int, Int[np.ndarray, " m"]], Refitted]
"""(query's row of test, training rows left out) -> what it is told before and after"""


def _probe(features: Features, labels: Labels, strengths: tuple[float, ...]) -> tuple[float, Without]:
    chosen = best_on_validation(logistic_path(features.train, labels.train, strengths), features.validation,
                                labels.validation).classifier

    def fit(kept: np.ndarray, start: LogisticRegression | None) -> LogisticRegression:
        model = LogisticRegression(C=C_PER_STRENGTH * chosen.strength, tol=LOGISTIC_TOLERANCE, max_iter=MOST_STEPS,
                                   warm_start=True)
        if start is not None:  # the optimum moves little
            model.coef_, model.intercept_ = start.coef_.copy(), start.intercept_.copy()
            model.classes_, model.n_features_in_ = start.classes_, start.n_features_in_
        with threadpool_limits(limits=1):
            return model.fit(features.train[kept], labels.train[kept])

    everything = np.arange(len(labels.train))
    whole = fit(everything, None)

    def without(query: int, removed: Int[np.ndarray, " m"]) -> Refitted:
        partial = fit(np.delete(everything, removed), whole)
        row = features.test[[query]]
        return Refitted(_by_class(whole, row), _by_class(partial, row))

    return chosen.strength, without


def _by_class(model: LogisticRegression, row: Float[np.ndarray, "1 d"]) -> Float[np.ndarray, " classes"]:
    """Log probabilities at each class's own index, -inf for classes it has not seen."""
    scores = np.full(int(model.classes_.max()) + 1, -np.inf)
    scores[model.classes_] = model.predict_log_proba(row)[0]
    return scores


def _network(material: Material, labels: Labels, rng: np.random.Generator) -> Without:
    """ValueError for a network that is no classifier: one without `logits` among its activations."""
    model, images = material.model, material.images
    test = np.asarray(images.examples("test")[0 : len(labels.test)])
    if "logits" not in jax.eval_shape(model.activations, jax.ShapeDtypeStruct((1, *images.shape), np.float32)):
        raise ValueError("retrained: the family's network tells no logits; name a classifier, or set retrained to 0")
    pixels = images.pixels("train", material.labelled)
    held_out = images.pixels("validation"), labels.validation
    start = initial(cast(Any, model).config, images.shape, len(images.class_names), material.key("start"))

    def logits(rows: Int[np.ndarray, " n"], query: int) -> Float[np.ndarray, " classes"]:
        trained = start.train(pixels[rows], labels.train[rows], held_out, material.key("order")).model
        return np.asarray(trained.activations(jnp.asarray(test[[query]]))["logits"][0], np.float64)

    everything = np.arange(len(labels.train))
    whole = start.train(pixels, labels.train, held_out, material.key("order")).model
    before = np.asarray(jax.jit(whole.activations)(test)["logits"], np.float64)
    seed = int(rng.integers(2**31))

    def without(query: int, removed: Int[np.ndarray, " m"]) -> Refitted:
        return Refitted(before[query], logits(replaced(everything, labels.train, removed, seed + query), query))

    return without


def replaced(
    rows: Int[np.ndarray, " n"], labels: Integer[np.ndarray, " n"], removed: Int[np.ndarray, " m"], seed: int
) -> Int[np.ndarray, " n"]:
    """`rows` with each one removed replaced by another of its class, drawn at random from those left."""
    left = np.setdiff1d(rows, removed)
    rng, found = np.random.default_rng(seed), rows.copy()
    for row in removed:
        found[row] = rng.choice(left[labels[left] == labels[row]])
    return found


def _drops(
    without: Without, removals: Removals, queries: Int[np.ndarray, " q"], classes: Integer[np.ndarray, " t"],
    report: Callable[[int, int], None], kept: Any = None,
) -> dict[str, Any]:
    """Each way's drops of log odds, their mean with its standard error over queries, the same less the control's, and
    the share of predictions that were right before and no longer are."""
    total, done = len(queries) * len(removals), 0
    found: dict[str, Any] = {}
    drops: dict[str, Float[np.ndarray, " q"]] = {}
    for way, rows in removals.items():
        each, lost = np.empty(len(queries)), np.zeros(len(queries), bool)
        for place, query in enumerate(queries):
            report(done, total)
            done += 1
            name = f"{way} {query}"
            if kept is None or (known := kept.load(name)) is None:
                before, after = without(int(query), rows[place])
                known = {"before": before, "after": after}
                if kept is not None:
                    kept.save(name, known)
            label = int(classes[query])
            each[place] = log_odds(known["before"], label) - log_odds(known["after"], label)
            lost[place] = known["before"].argmax() == label != known["after"].argmax()
        drops[way] = each
        found[way] = {"drop": float(each.mean()), "standard_error": _error(each), "lost": float(lost.mean()),
                      "drops": each.tolist()}
    report(total, total)
    for way, each in drops.items():
        difference = each - drops[RANDOM]
        found[way] |= {"above_random": float(difference.mean()), "above_random_error": _error(difference)}
    return found


def _error(values: Float[np.ndarray, " q"]) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def _summary(numbers: dict[str, Any]) -> str:
    def said(part: str) -> str:
        return ", ".join(f"{way} {one['above_random']:.2f} ± {one['above_random_error']:.2f}"
                         for way, one in numbers[part].items() if way != RANDOM)

    return (f"log odds lost above random removal, probe: {said('probe')}"
            + (f"; network: {said('network')}" if "network" in numbers else ""))


def _table(numbers: dict[str, Any]) -> Table:
    rows = [(part, way, f"{one['drop']:.3f} ± {one['standard_error']:.3f}",
             f"{one['above_random']:.3f} ± {one['above_random_error']:.3f}", f"{100 * one['lost']:.1f}")
            for part in ("probe", "network") if part in numbers for way, one in numbers[part].items()]
    return Table(("trained again", "nearest by", "drop of log odds", "above random", "predictions lost, %"),
                 tuple(rows))


@styled
def _figure(numbers: dict[str, Any]) -> Figure:
    parts = [part for part in ("probe", "network") if part in numbers]
    figure = new_figure(3.6 + 2.6 * (len(parts) - 1) + 1.4, 2.6)
    cells = figure.subplots(1, len(parts), sharey=True, squeeze=False)[0]
    for axes, part in zip(cells, parts, strict=True):
        ways = list(numbers[part])
        axes.barh(ways, [numbers[part][way]["drop"] for way in ways], height=0.7,
                  xerr=[numbers[part][way]["standard_error"] for way in ways],
                  color=[BLUE if way.startswith("NFK") else GREY for way in ways])
        axes.set_title(f"{part.capitalize()} trained again")
        axes.set_xlabel("Drop of the query's log odds")
        axes.grid(axis="y", visible=False)
    cells[0].invert_yaxis()
    return figure
