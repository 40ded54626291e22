"""`nfk atlas` from stores to page: the right images beside the right vectors, kept for MLflow, stale stores refused."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from nfk import store
from nfk.cli import EXIT_UNTRACKED, app
from nfk.stages import atlas, images
from nfk.store import StoreError
from nfk.tracking import spool

FAMILIES = {"mlp": {"model": "mlp", "hidden": 6, "epochs": 1, "batch": 8}}
AWAY = {"uri": "http://127.0.0.1:9"}


def test_from_stores_to_a_page_that_waits_for_mlflow(workspace, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings = workspace.params(FAMILIES, tracking=AWAY)
    workspace.run(settings, "mlp", "pretrain", "statistics", "svd", "embed")
    data, embeddings = images.load(settings), store.read("embeddings/mlp.zarr")
    shown = atlas.gather(settings, "mlp", data, "mlp", store.read("factors/mlp.zarr"), embeddings, points=50)
    assert (shown.images_in_all, len(shown.ids)) == (64, 50)
    whole = store.read("data/digits.zarr")  # its ids are its rows
    assert np.array_equal(shown.pixels, whole["images"][:][shown.ids])
    assert np.array_equal(shown.categories["label"].values, whole["labels"][:][shown.ids])
    vectors = np.concatenate([embeddings[split][:] for split in images.SPLITS])
    assert np.array_equal(shown.embedding, vectors[shown.ids])
    assert np.array_equal(shown.categories["split"].values, np.digitize(shown.ids, [40, 52]))
    wrong = shown.categories["prediction"].values != shown.categories["label"].values
    assert np.array_equal(shown.categories["probe"].values, wrong)
    assert shown.shares.sum() == pytest.approx(store.read("factors/mlp.zarr")["explained_variance"][-1])

    (tmp_path / "params.yaml").write_text(json.dumps(settings.model_dump(mode="json")))
    done = CliRunner().invoke(app, ["atlas", "mlp", "--points", "30"], catch_exceptions=False)
    assert done.exit_code == EXIT_UNTRACKED
    assert re.search(r"^30 of 64 images, \d\.\d MiB -> atlas/mlp.html$", done.stdout, re.M)
    [entry] = spool.entries()
    page = (tmp_path / "atlas" / "mlp.html").read_bytes()
    assert (entry / "artifacts" / "mlp.html").read_bytes() == page
    assert spool.read(entry).tags["digest.embeddings"] == embeddings.digest

    smaller = workspace.params(FAMILIES, svd={"rank": 3, "strategy": "explicit", "block": 16})
    workspace.run(smaller, "mlp", "svd")
    with pytest.raises(StoreError, match=r"embeddings/mlp\.zarr was made from factors"):
        atlas.run(smaller, "mlp", tmp_path / "atlas" / "mlp.html", 30)
    assert (tmp_path / "atlas" / "mlp.html").read_bytes() == page
