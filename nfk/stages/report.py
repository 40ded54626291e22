"""`report`: one self-contained page of everything, for people."""

from __future__ import annotations

import datetime
import json
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np

from nfk import durable, store, tracking
from nfk.evaluation.figures.images import samples
from nfk.evaluation.figures.style import save
from nfk.models import checkpoint
from nfk.params import Params
from nfk.report import content
from nfk.report.findings import findings
from nfk.report.metrics import Metrics, parse_metrics
from nfk.report.page import render
from nfk.stages import images, network, workspace
from nfk.stages.images import SPLITS, Images
from nfk.stages.outcome import Outcome

_PACKAGES = ("nfk", "jax", "flax", "optax", "numpy", "scikit-learn", "zarr", "dvc", "mlflow", "prefect")
_FIGURES: tuple[tuple[content.FigurePlace, str, str], ...] = (
    ("samples", "models/{}/samples.png", "Samples of the network, or for a classifier images it was trained on."),
    ("curves", "models/{}/curves.png", "Training, epoch by epoch."),
    ("spectrum", "evaluation/{}/figures/spectrum.png",
     "Variance of the paper's Fisher vectors, whitened element-wise, held by the leading components: trained against "
     "untrained network on the same images, with and without the mean score subtracted."),
    ("spectrum", "factors/{}.png", "Singular values of the Fisher vectors, and each mode's residual."),
    ("accuracy", "evaluation/{}/figures/accuracy.png",
     "Test accuracy of a linear probe against the numbers kept for each image."),
    ("accuracy", "evaluation/{}/figures/probes.png", "Test accuracy of a linear probe on each representation."),
    ("few_labels", "evaluation/{}/figures/few_labels.png", "Test accuracy against the labels the probe has seen."),
    ("components", "evaluation/{}/figures/components.png",
     "Training images with the largest projections on the first five components, a row for each."),
    ("neighbours", "evaluation/{}/figures/neighbours.png",
     "Test images, and the training images nearest to them in the embedding."),
)


def run(params: Params) -> Outcome:
    data = images.load(params)
    folder = workspace.REPORT.parent
    grid = workspace.PRIVATE / "examples.png"
    save(samples(np.asarray(data.examples("train")[:100])), grid)
    families = tuple(_family(params, name) for name in params.families)
    page = render(content.Report(
        title=params.report.title, date=datetime.date.today(), summary=findings(families),
        data=_data_card(params, data, grid), families=families, lineage=_lineage(params)))
    with store.whole_folder(folder) as building:
        durable.write(building / workspace.REPORT.name, page.encode())
    return Outcome(f"{len(page) / 2**20:.1f} MiB -> {workspace.REPORT}", figures=[],
                   metrics={"families": len(families)})


def _data_card(params: Params, data: Images, grid: Path) -> content.DataCard:
    return content.DataCard(
        name=params.data.name, source=data.source, digest=data.digest, image_shape=data.shape,
        counts={split: len(data.labels(split)) for split in SPLITS}, classes=data.class_names,
        grid=content.Figure(path=grid, caption="The first training images.",
                            alt="A grid of images from the training split"))


def _family(params: Params, name: str) -> content.Family:
    card = checkpoint.read_card(workspace.model_folder(name))
    factors = store.read(workspace.factors_store(name))
    statistics = store.read(workspace.statistics_store(name))
    file = workspace.evaluation_folder(name) / "metrics.json"
    if not file.exists():
        raise store.StoreError(f"{file} is absent; make it with `nfk repro evaluate@{name}`")
    metrics = parse_metrics(json.loads(file.read_text(encoding="utf-8")), source=str(file))
    return content.Family(
        name=name, model=card["model"], parameters=card["parameters"],
        training_seconds=_seconds("pretrain", name), training=card["metrics"],
        checks=tuple(content.Check(**check) for check in card["checks"]),
        figures=tuple(content.PlacedFigure(place=place, path=Path(path.format(name)), caption=caption,
                                           alt=f"{name}: {caption}")
                      for place, path, caption in _FIGURES if _drawn(place, metrics)),
        metrics=metrics,
        svd=content.SvdFacts(
            strategy=factors.attributes["strategy"], passes=factors.attributes["passes"],
            rank=factors["singular_values"].shape[0], seconds=_seconds("svd", name),
            largest_residual=float(np.max(factors["residuals"][:])),
            explained_variance=float(factors["explained_variance"][-1]),
            whitened=_whitened("sides" in statistics, **network.choices(factors)),
            dead_parameters=statistics.attributes["dead_parameters"],
            examples=factors["left"].shape[0], parameters=factors["right"].shape[0]))


def _drawn(place: content.FigurePlace, metrics: Metrics) -> bool:
    """Whether `evaluate` had something to draw there."""
    if place == "few_labels":
        return any(feature.few_labels for feature in metrics.features.values())
    return place != "accuracy" or bool(metrics.features)


def _whitened(kronecker: bool, damping: float, unit_rows: bool) -> str:
    how = "each layer as a whole" if kronecker else "element-wise"
    return f"{how}, damping {damping:g}" + (", unit length" if unit_rows else "")


def _seconds(stage: str, family: str) -> float | None:
    """What the stage last took here; None where its result came from DVC's cache."""
    try:
        kept = json.loads((workspace.LAST_RUNS / f"{stage}@{family}.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return kept["seconds"]


def _lineage(params: Params) -> content.Lineage:
    import jax

    made = {"data": workspace.data_store(params)}
    for name in params.families:
        made |= {f"statistics/{name}": workspace.statistics_store(name),
                 f"factors/{name}": workspace.factors_store(name),
                 f"embeddings/{name}": workspace.embeddings_store(name)}
    git, hashes = tracking.git_state(), tracking.all_dvc_hashes()
    return content.Lineage(
        commit=git.get("git.commit", "not in a git repository"), dirty=git.get("git.dirty") == "true",
        dvc={f"{stage}: {path}": digest for stage, found in hashes.items() for path, digest in found.outs.items()},
        stores={name: store.read_marker(path)["digest"] for name, path in made.items()},
        versions={"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        device=f"{jax.devices()[0].device_kind} x {jax.device_count()}",
        tracking_uri=tracking.redact(tracking.tracking_uri(params.tracking)),
        runs={}, commands=(f"git checkout {git.get('git.commit', '')}", "make repro"))
