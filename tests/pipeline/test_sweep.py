"""Two combinations of the small pipeline side by side, each a DVC experiment of the project."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.pipeline.conftest import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NAMES = ["sweep-digits-classifier-r4", "sweep-digits-classifier-r6"]


def test_two_ranks_side_by_side_become_experiments_and_a_second_sweep_runs_nothing(
        tiny: Workspace, tmp_path: Path) -> None:
    clone = tiny
    clone.environment["PREFECT_HOME"] = str(tmp_path)
    command = (sys.executable, "-m", "flows.sweep", "--rank", "4", "--rank", "6", "--parallel", "2")
    clone.run(*command)
    rows = json.loads((clone.folder / "sweep/results.json").read_text())
    assert {(row["rank"], row["features"]) for row in rows} >= {(4, "nfk-4"), (6, "nfk-6"), (6, "nfk-4")}
    assert all(0 < row["accuracy"] <= 1 and row["state"] == "done" for row in rows)
    assert sorted(clone.run(sys.executable, "-m", "dvc", "exp", "list", "--name-only").stdout.split()) == NAMES
    assert not (clone.folder / "factors").exists()  # the project's own workspace is as it was

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{clone.folder / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("nfk").experiment_id])
    assert sorted(run.data.params["svd.rank"] for run in runs if run.info.run_name == "svd@classifier") == ["4", "6"]
    figures = str((clone.folder / "mlruns").resolve())  # not in a workspace that may be removed
    assert all(run.info.artifact_uri.startswith(figures) for run in runs)
    again = clone.run(*command).stdout
    assert [name for name in NAMES if f"{name}: is done, skipped" in again] == NAMES
    assert "Running stage" not in again
