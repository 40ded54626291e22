"""Images without classes: embedded, looked at, registered and reported; nothing is probed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nfk import store
from nfk.stages import atlas, baselines, evaluate, images, register, report

FAMILIES = {"mlp": {"model": "mlp", "hidden": 6, "epochs": 1, "batch": 8}}


@pytest.fixture
def unlabelled(workspace):
    """The data of `workspace`, all of one class."""
    found = store.read("data/digits.zarr")
    arrays = {name: found[name][:] for name in ("images", "labels", "source_row")}
    with store.write("data/digits.zarr", inputs={"source": "1" * 64}) as writer:
        writer.put("images", arrays["images"])
        writer.put("labels", np.zeros_like(arrays["labels"]))
        writer.put("source_row", arrays["source_row"])
        writer.attributes.update(found.attributes | {"class_names": ["unlabelled"]})
    return workspace


def test_all_stages_to_the_report_the_atlas_and_the_registry(unlabelled, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings = unlabelled.params(FAMILIES, tracking={"uri": f"sqlite:///{tmp_path}/mlflow.db"})
    assert baselines.run(settings).summary.startswith("images of one class: nothing to probe")
    unlabelled.run(settings, "mlp", "pretrain", "statistics", "svd", "embed")
    outcome = evaluate.run(settings, "mlp")
    metrics = json.loads((tmp_path / "evaluation/mlp/metrics.json").read_text())
    share = metrics["explained_variance"]["4"]
    assert outcome.summary.startswith(f"no classes to probe, 4 numbers hold {share:.1%} of the variance, ")
    assert metrics["features"] == {} and 0 < share < 1
    assert outcome.metrics == {"explained_variance/4": share}
    drawn = {file.name for file in (tmp_path / "evaluation/mlp/figures").iterdir()}
    assert drawn == {"spectrum.png", "components.png", "neighbours.png"}

    report.run(settings)
    page = (tmp_path / "report/index.html").read_text()
    assert "the images have no classes for a probe to tell" in page
    assert "Comparison" not in page and "Logistic" not in page

    embeddings = store.read("embeddings/mlp.zarr")
    shown = atlas.gather(settings, "mlp", images.load(settings), "mlp", store.read("factors/mlp.zarr"), embeddings, 50)
    assert shown.categories.keys() == {"label", "split"} and shown.measures.keys() == {"isolation"}

    embedder, _ = register.run(settings, "mlp")
    assert (embedder.tags["gate.metric"], float(embedder.tags["gate.value"])) == ("explained_variance", share)
