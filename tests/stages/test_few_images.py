"""A set smaller than the defaults were made for: what cannot be probed is left out, nothing is refused."""

from __future__ import annotations

import json
from pathlib import Path

from nfk.stages import baselines, evaluate, report


def test_numbers_of_labels_that_there_are_not_are_left_out_of_metrics_figures_and_page(workspace):
    settings = workspace.params({"mlp": {"model": "mlp", "hidden": 6, "epochs": 1, "batch": 8}},
                                evaluate={"neighbours": [1], "strengths": [1.0], "initialisations": 1})
    assert min(settings.evaluate.labels) > settings.labelled
    baselines.run(settings)
    workspace.run(settings, "mlp", "pretrain", "statistics", "svd", "embed")
    evaluate.run(settings, "mlp")
    metrics = json.loads(Path("evaluation/mlp/metrics.json").read_text())
    assert {name: feature["few_labels"] for name, feature in metrics["features"].items()}.keys() >= {"nfk-4", "pixels"}
    assert not any(feature["few_labels"] for feature in metrics["features"].values())
    drawn = {file.name for file in Path("evaluation/mlp/figures").iterdir()}
    assert "accuracy.png" in drawn and "few_labels.png" not in drawn
    report.run(settings)
    page = Path("report/index.html").read_text()
    assert "Logistic" in page and "Few labels" not in page
