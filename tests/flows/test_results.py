from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.results import lineage_page, metric_rows


def test_rows_are_the_probes_of_each_family(tmp_path: Path) -> None:
    for family, accuracy in (("vae", 0.7), ("gan", 0.9)):
        folder = tmp_path / "evaluation" / family
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"features": {"nfk-128": {
            "dimension": 128, "few_labels": {"100": {"mean": 0.5}},
            "logistic": {"accuracy": accuracy, "standard_error": 0.01, "strength": 1.0}}}}))
    assert metric_rows(tmp_path) == [
        {"family": family, "features": "nfk-128", "probe": "logistic", "accuracy": accuracy,
         "standard error": 0.01} for family, accuracy in (("gan", 0.9), ("vae", 0.7))]


def test_without_evaluations_there_are_no_rows(tmp_path: Path) -> None:
    assert metric_rows(tmp_path) == []


def test_the_lineage_has_commit_and_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nfk.tracking.git_state", lambda: {"git.commit": "0a1b", "git.dirty": "true"})
    (tmp_path / "dvc.lock").write_text("stages:\n  svd@gan:\n    outs: [{path: f, hash: md5, md5: cc}]\n")
    page = lineage_page("run-1", ["data", "svd@gan"], tmp_path)
    assert "Pipeline run `run-1`, commit `0a1b` with changes." in page
    assert page.endswith("| svd@gan | f | `md5:cc` |")
