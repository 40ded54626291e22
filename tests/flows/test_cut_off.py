"""A stage that the system kills can say nothing: who ran it says and records it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nfk import params
from nfk.repro import reproduce
from nfk.stages import cut_off, workspace
from nfk.workspace_lock import stage_lock
from tests.flows.test_pipeline import run

CUT_OFF = (r"fit@vae was cut off after \d+ s, as happens where memory runs out or someone kills it; end other "
           r"programs, or lower .*svd\.memory_gib in params\.yaml; the same command goes on from the last saved block")


@pytest.fixture
def killed(workspace: Path) -> Path:
    (workspace / "order").write_text("be killed")
    return workspace


def recorded(folder: Path) -> dict[str, tuple[str, str]]:
    """Status and error of each stage that MLflow heard of, and of the pipeline's run without its name."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'nfk'")
    runs = client.search_runs([experiment.experiment_id])
    return {run.info.run_name if "mlflow.parentRunId" in run.data.tags else "":
            (run.info.status, run.data.tags.get("error", "")) for run in runs}


def test_repro_says_so_in_its_last_line_and_mlflow_hears_of_it(
        killed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert not reproduce(params.load(), ["fit@vae"])
    said = capfd.readouterr().err.splitlines()
    assert re.fullmatch(f"nfk: {CUT_OFF}", said[-1]), said
    found = recorded(killed)
    assert found["fit@vae"] == ("KILLED", said[-1].removeprefix("nfk: ")[:len(found["fit@vae"][1])])
    assert found[""][0] == "FAILED"

    (killed / "order").unlink()
    assert reproduce(params.load(), ["fit@vae"])
    assert "cut off" not in capfd.readouterr().err


def test_a_flow_fails_with_that_line(killed: Path) -> None:
    from flows.dvc_stage import StageFailed

    with pytest.raises(StageFailed, match=f"^{CUT_OFF}$"):
        run(families=("vae",))
    found = recorded(killed)
    assert found["fit@vae"][0] == "KILLED" and found["fit@vae"][1].startswith("fit@vae was cut off after ")
    assert found[""][0] == "FAILED"


@pytest.mark.usefixtures("untracked", "workspace")
def test_only_what_was_killed_since_then_counts() -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    with stage_lock(workspace.LOCKS / "svd@gan.lock"):
        assert cut_off.told(params.load().tracking, "a-run", before) == []  # it runs
    assert cut_off.told(params.load().tracking, "a-run", before) == []  # it has ended
    with pytest.raises(ZeroDivisionError), stage_lock(workspace.LOCKS / "svd@gan.lock"):
        raise ZeroDivisionError
    assert cut_off.told(params.load().tracking, "a-run", before) == []  # it said itself what was wrong
    (workspace.LOCKS / "svd@gan.lock").write_text("1234")
    (line,) = cut_off.told(params.load().tracking, "a-run", before)
    assert line.startswith("svd@gan was cut off after 0 s")
    assert cut_off.told(params.load().tracking, "a-run", before, why="ran too long") == ["ran too long"]
    assert cut_off.told(params.load().tracking, "a-run", datetime.now(UTC) + timedelta(seconds=9)) == []
