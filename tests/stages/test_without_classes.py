"""Images without classes: embedded, looked at, registered and reported; nothing is probed. Their files' names go with
them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nfk import names, store
from nfk.service import neighbours
from nfk.stages import atlas, baselines, data, evaluate, images, register, registered, report

FAMILIES = {"mlp": {"model": "mlp", "hidden": 6, "epochs": 1, "batch": 8}}


@pytest.fixture
def folder(workspace, tmp_path):
    """The images of `workspace` as files in one folder, named by their rows."""
    for row, pixels in enumerate(store.read("data/digits.zarr")["images"][:]):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels[..., 0]).save(tmp_path / f"photos/{row:02d}.png")
    return tmp_path / "photos"


def test_all_stages_to_the_report_the_atlas_and_the_registry(workspace, folder, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings = workspace.params(FAMILIES, tracking={"uri": f"sqlite:///{tmp_path}/mlflow.db"},
                                data={"source": str(folder), "train": 40, "validation": 12, "test": 12})
    pixels = store.read("data/digits.zarr")["images"][:]
    assert data.run(settings).summary == "64 images of 12 x 12 x 1 without classes -> data/digits.zarr"
    kept = store.read("data/digits.zarr")
    files = names.read(kept, "file")
    assert sorted(files) == [f"{row:02d}.png" for row in range(64)]
    assert np.array_equal(kept["images"][:], pixels[[int(Path(file).stem) for file in files]])
    assert baselines.run(settings).summary.startswith("images of one class: nothing to probe")
    workspace.run(settings, "mlp", "pretrain", "statistics", "svd", "embed")
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
    assert names.read(embeddings, "test_file") == files[52:]
    shown = atlas.gather(settings, "mlp", images.load(settings), "mlp", store.read("factors/mlp.zarr"), embeddings, 50)
    assert np.array_equal(shown.pixels[:, :, :, 0], np.stack([np.asarray(Image.open(folder / file))
                                                              for file in shown.files]))
    assert shown.categories.keys() == {"label", "split"} and shown.measures.keys() == {"isolation"}

    embedder, _ = register.run(settings, "mlp")
    assert (embedder.tags["gate.metric"], float(embedder.tags["gate.value"])) == ("explained_variance", share)
    with registered.opened(settings, embedder.reference) as opened:
        index = neighbours.read(tmp_path / "embeddings/mlp.zarr", opened.embedder)
    near = index.nearest(embeddings["validation"][:], 1)
    assert [each[0].id for each in near] == files[40:52]
