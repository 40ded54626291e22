"""`evaluate@F`: what the embedding is worth beside the full Fisher vector, activations and pixels.

Images without classes have nothing that a probe could tell: for them the spectra, components and neighbours alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn.neighbors import NearestNeighbors

from nfk import store
from nfk.evaluation.claims import judge
from nfk.evaluation.components import extremes
from nfk.evaluation.evaluate import evaluate_all
from nfk.evaluation.figures.accuracy import accuracy_against_components, accuracy_from_few_labels, probe_accuracies
from nfk.evaluation.figures.images import component_ends, neighbours
from nfk.evaluation.figures.spectrum import explained_variance as explained_variance_figure
from nfk.evaluation.figures.style import save
from nfk.evaluation.spectrum import component_counts, explained_variance
from nfk.fisher.kernel import kernel_matrices
from nfk.fisher.scores import Scores
from nfk.fisher.statistics import FisherStatistics, fisher_statistics
from nfk.fisher.vectors import FisherVectors
from nfk.models.custom import Custom
from nfk.models.families import initial
from nfk.params import PAPER_VECTORS, Params
from nfk.progress import Report, progress
from nfk.stages import baselines, images, network, representations, workspace
from nfk.stages.images import Images
from nfk.stages.labelled import is_known, labels
from nfk.stages.network import Network
from nfk.stages.outcome import Outcome

_OWN_BASELINE = {"penultimate": "activations-penultimate", "latent_mean": "activations-latent_mean"}
"""The one layer that users of a classifier, or of a VAE, would take instead."""
_QUERIES = 8


def run(params: Params, family: str) -> Outcome:
    data, net = images.load(params), network.load(params, family)
    statistics, statistics_digest = network.load_statistics(params, net, data)
    made_from = {"data": data.digest, "model": net.digest, "statistics": statistics_digest}
    factors = network.load_factors(params, family, **made_from)
    embeddings = store.read(workspace.embeddings_store(family)).expect(**made_from, factors=factors.digest)
    choices = network.choices(factors)
    features, left_out = _features(params, net, data, statistics, embeddings, choices) if is_known(data) else ({}, {})
    with progress(f"evaluate@{family}") as report:
        spectrum = spectra(params, net, data, statistics, report)
    metrics: dict[str, Any] = {
        "family": family,
        "model": net.card["model"],
        "rank": int(factors["singular_values"].shape[0]),
        "classes": list(data.class_names),
        "counts": {"train": len(labels(params, data).train), "validation": len(data.labels("validation")),
                   "test": len(data.labels("test"))},
        "features": features,
        "left_out": left_out,
        "spectrum": spectrum,
        "explained_variance": {str(k): float(factors["explained_variance"][k - 1])
                               for k in representations.reachable(params.evaluate.ranks,
                                                                  factors["singular_values"].shape[0])},
    }
    metrics["claims"] = [asdict(claim) for claim in judge(metrics, **_own_baseline(features))]
    folder = workspace.evaluation_folder(family)
    with store.whole_folder(folder) as building:
        store.write_json(building / "metrics.json", metrics)
        _draw(params, data, embeddings, metrics, building / "figures")
    holding = sum(claim["holds"] for claim in metrics["claims"])
    return Outcome(
        f"{_told(metrics)}, {holding} of {len(metrics['claims'])} claims hold -> {folder}",
        params={"evaluate": params.evaluate.model_dump()},
        metrics=_flat(features) | {f"explained_variance/{k}": share
                                   for k, share in metrics["explained_variance"].items()},
        figures=sorted((folder / "figures").glob("*.png")),
        digests={**made_from, "factors": factors.digest, "embeddings": embeddings.digest})


def _told(metrics: dict[str, Any]) -> str:
    if not metrics["features"]:
        k, share = list(metrics["explained_variance"].items())[-1]
        return f"no classes to probe, {k} numbers hold {share:.1%} of the variance"
    best = f"nfk-{_largest(metrics)}"
    accuracy = metrics["features"][best]["logistic"]
    return f"{best} {accuracy['accuracy']:.1%} ± {accuracy['standard_error']:.1%}"


def _own_baseline(features: dict[str, Any]) -> dict[str, str]:
    return {role: name for role, name in _OWN_BASELINE.items() if name in features}


def _features(
    params: Params, net: Network, data: Images, statistics: FisherStatistics, embeddings: store.Store,
    choices: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, str]]:
    """The metrics of every representation by name, and why one is left out."""
    pixels = json.loads(workspace.BASELINES.read_text(encoding="utf-8")) if workspace.BASELINES.exists() else {}
    if pixels.get("made_from") != baselines.made_from(params, data):
        raise store.StoreError(f"{workspace.BASELINES} is absent or of other data or settings; make it with "
                               "`nfk repro baselines`")
    rank = representations.reachable(params.evaluate.ranks, embeddings.attributes["rank"])[-1]
    with progress(f"evaluate@{net.family}") as report:
        full, reason = representations.full_fisher_vector(params, net, data, statistics, choices, report)
    layers = list(representations.activations(params, net, data, rank))
    compared = [*representations.embeddings(params, embeddings), *([full] if full else []), *layers]
    if params.evaluate.activations_and_gradients and full and layers:
        compared.append(representations.beside(full, layers))
    with progress(f"evaluate@{net.family}", "representations") as report:
        found = evaluate_all(compared, labels(params, data), params.evaluate, params.seed, progress=report)
    if full:  # what it stands for, not the numbers of its isometric copy
        found[full.name]["dimension"] = net.scores.size
        if representations.BOTH in found:
            found[representations.BOTH]["dimension"] = net.scores.size + found["activations-all"]["dimension"]
    return found | pixels["features"], {} if full else {"full-fisher-vector": reason}


def spectra(
    params: Params, net: Network, data: Images, statistics: FisherStatistics, report: Report
) -> dict[str, Any]:
    """Explained variance of the trained and of untrained networks on the same examples and samples, each with its
    own statistics, with and without the mean score taken away; `untrained` is the mean over `untrained_draws`, and
    absent for a network that was trained elsewhere. Of the paper's vectors, whitened element-wise: factors that even
    out each network's own covariance leave no spectra to compare."""
    examples = data.examples("train", params.evaluate.spectrum_examples)
    samples, _ = network.model_samples(params, net, data)
    counts = component_counts(examples.shape[0])

    def curves(scores: Scores, known: FisherStatistics) -> dict[str, list[float]]:
        found = {}
        for suffix, vectors in _vectors(params, scores, examples, known):
            gram, = kernel_matrices(vectors, progress=report)
            ratio = explained_variance(gram)
            found[suffix] = [float(ratio[count - 1]) for count in counts]
        return found

    trained, draws = curves(net.scores, statistics), []
    untrained_known = not isinstance(net.model, Custom) or net.model.trains
    for draw in range(params.evaluate.initialisations if untrained_known else 0):
        key = jax.random.fold_in(network.key(params, "init"), draw)
        untrained = initial(net.model.config, data.shape, len(data.class_names), key)
        scores = network.scores(params, net.family, untrained)
        draws.append(curves(scores, fisher_statistics(scores, samples, block=params.statistics.block)))
    return {"components": counts, "untrained_draws": [draw[""] for draw in draws],
            **{f"trained{suffix}": values for suffix, values in trained.items()},
            **{f"untrained{suffix}": np.mean([draw[suffix] for draw in draws], axis=0).tolist()
               for suffix in (trained if draws else ())}}


def _vectors(
    params: Params, scores: Scores, examples: Any, known: FisherStatistics
) -> list[tuple[str, FisherVectors]]:
    centred = known._replace(sides=None)
    uncentred = centred._replace(mean_score=np.zeros_like(centred.mean_score))
    return [(suffix, FisherVectors(scores, examples, statistics, damping=PAPER_VECTORS["svd"]["damping"],
                                   block_rows=params.statistics.block))
            for suffix, statistics in (("", centred), ("_uncentred", uncentred))]


def _draw(params: Params, data: Images, embeddings: store.Store, metrics: dict[str, Any], folder: Path) -> None:
    features = metrics["features"]
    if features:
        rank = _largest(metrics)
        compared = [name for name in (f"nfk-{rank}", "full-fisher-vector", f"pca-{rank}", "activations-all", "pixels",
                                      *_OWN_BASELINE.values()) if name in features]
        save(accuracy_against_components(features), folder / "accuracy.png")
        if any(features[name]["few_labels"] for name in compared):
            save(accuracy_from_few_labels(features, compared), folder / "few_labels.png")
        save(probe_accuracies(features), folder / "probes.png")
    save(explained_variance_figure(metrics["spectrum"]), folder / "spectrum.png")
    most = params.labelled
    train, test = np.asarray(embeddings["train"][:most]), np.asarray(embeddings["test"][:_QUERIES])
    pixels, classes = images.unit(data.pixels("train", most)), data.labels("train", most)
    ends = extremes(train, components=min(5, train.shape[1]))
    save(component_ends(pixels, ends), folder / "components.png")
    near = NearestNeighbors(n_neighbors=min(10, len(train))).fit(train).kneighbors(test, return_distance=False)
    save(neighbours(images.unit(data.pixels("test")[:_QUERIES]), data.labels("test")[:_QUERIES], pixels[near],
                    classes[near], data.class_names), folder / "neighbours.png")


def _largest(metrics: dict[str, Any]) -> int:
    return max(int(name.removeprefix("nfk-")) for name in metrics["features"] if name.startswith("nfk-"))


def _flat(features: dict[str, Any]) -> dict[str, float]:
    """Accuracies by representation and probe, as MLflow takes them."""
    flat = {f"{name}/{probe}": found[probe]["accuracy"] for name, found in features.items()
            for probe in ("logistic", "squared_hinge", "knn")}
    return flat | {f"{name}/labels-{count}": result["mean"] for name, found in features.items()
                   for count, result in found["few_labels"].items()}
