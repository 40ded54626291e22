"""Against a real MLflow store: SQLite in the workspace, written by the sender process."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nfk import tracking
from nfk.params import TrackingParams
from nfk.tracking import StageRecord, spool

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

Make = Callable[..., StageRecord]
PARAMS = TrackingParams()
ROOT = Path(__file__).parents[2]
STAGE = f"""\
import sys
sys.path.insert(0, {str(ROOT)!r})
from datetime import UTC, datetime
from nfk import tracking
from nfk.params import TrackingParams
stage, _, family = sys.argv[1].partition("@")
record = tracking.StageRecord(stage=stage, family=family or None, started=datetime.now(UTC))
tracking.log(record, TrackingParams())
open(sys.argv[2], "w").write(sys.argv[1])
"""
LOCK = """\
schema: '2.0'
stages:
  svd@gan:
    cmd: nfk svd gan
    outs: [{path: factors/gan.zarr, hash: md5, md5: cc.dir}]
"""


@pytest.fixture
def client(store: Path) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{store}/mlflow.db")


def runs(client: MlflowClient) -> dict[str, Run]:
    """The live runs of the experiment by name; names must be single."""
    experiment = client.get_experiment_by_name(PARAMS.experiment)
    found = [] if experiment is None else list(client.search_runs([experiment.experiment_id]))
    named = {run.info.run_name: run for run in found}
    assert len(named) == len(found), [run.info.run_name for run in found]
    return named


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as bound:  # bound, not listening: connections are refused, and nobody else gets it
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_all_of_a_record_arrives(client: MlflowClient, store: Path, record: Make,
                                 capfd: pytest.CaptureFixture[str]) -> None:
    figure = store / "spectrum.png"
    figure.write_bytes(b"png")
    made = record(params={"svd": {"rank": 8}}, metrics={"r@k": 0.5, "loss": math.nan},
                  series={"singular_values": [3.0, 2.0, 1.0]}, figures=(figure,), artifacts=(figure,),
                  tags={"device": "cpu:0", "digest.data": "ab"})
    assert tracking.log(made, PARAMS)
    run = runs(client)["svd@gan"]
    assert run.data.params == {"svd.rank": "8"}
    assert run.data.metrics["r_k"] == 0.5 and math.isnan(run.data.metrics["loss"])
    history = client.get_metric_history(run.info.run_id, "singular_values")
    assert [(point.step, point.value) for point in history] == [(0, 3.0), (1, 2.0), (2, 1.0)]
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"figures", "spectrum.png"}
    (item,) = client.list_artifacts(run.info.run_id, "figures")
    assert item.path == "figures/spectrum.png"
    tags = run.data.tags
    assert (tags["nfk.stage"], tags["nfk.family"], tags["device"]) == ("svd", "gan", "cpu:0")
    assert tags["git.commit"] == tags["mlflow.source.git.commit"] and len(tags["git.commit"]) == 40
    assert "mlflow.parentRunId" not in tags  # it stands alone
    assert run.info.status == "FINISHED" and run.info.end_time - run.info.start_time == 9000
    assert tracking.pending() == 0
    assert capfd.readouterr() == ("", "")  # MLflow's prints stay out of the stage


def test_one_parent_across_processes_and_its_end(client: MlflowClient, store: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline of two stages, each its own process; `finish` ends it with its lineage."""
    run_id = tracking.new_pipeline_run_id()
    monkeypatch.setenv("NFK_PIPELINE_RUN", run_id)
    for stage in ("data", "svd@gan"):
        subprocess.run([sys.executable, "-c", STAGE, stage, "out"], check=True)
    found = runs(client)
    assert found.keys() == {f"pipeline {run_id}", "data"}  # the second, so soon after, waits for `finish`
    assert found[f"pipeline {run_id}"].info.status == "RUNNING" and tracking.pending() == 1

    (store / "dvc.lock").write_text(LOCK)
    (store / "params.yaml").write_text("tracking: {uri: 'http://ann:secret@h'}\n")
    assert tracking.finish(run_id, PARAMS, status="FAILED", tags={"prefect.flow_run_id": "f1"})

    found = runs(client)
    assert found.keys() == {f"pipeline {run_id}", "data", "svd@gan"}
    parent = found[f"pipeline {run_id}"]
    for name in ("data", "svd@gan"):
        assert found[name].data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert found["svd@gan"].data.tags["dvc.out.factors/gan.zarr"] == "md5:cc.dir"
    assert parent.info.status == "FAILED" and parent.info.end_time is not None
    assert parent.data.tags["prefect.flow_run_id"] == "f1"
    folder = Path(parent.info.artifact_uri)
    assert (folder / "dvc.lock").read_text() == LOCK
    assert (folder / "params.yaml").read_text() == "tracking: {uri: 'http://***@h'}\n"


def test_short_stages_share_a_sending(client: MlflowClient, store: Path, record: Make,
                                      monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """At once: the first, what failed, the first after a minute, and what no `finish` will follow."""
    assert tracking.log(record(stage="data", family=None, pipeline_run="p"), PARAMS)
    assert tracking.log(record(stage="pretrain", pipeline_run="p"), PARAMS)  # it waits, as it may
    assert runs(client).keys() == {"pipeline p", "data"} and tracking.pending() == 1
    assert tracking.log(record(stage="svd", pipeline_run="p", status="FAILED"), PARAMS)
    assert runs(client).keys() == {"pipeline p", "data", "pretrain@gan", "svd@gan"} and tracking.pending() == 0
    assert tracking.log(record(stage="embed"), PARAMS)
    assert "embed@gan" in runs(client)
    minute_ago = time.time() - 61
    for took, waits in (("4", True), ("2.9", False)):  # twenty times as long are 80 s, and 58 s
        (spool.SPOOL / ".sent").write_text(took)
        os.utime(spool.SPOOL / ".sent", (minute_ago, minute_ago))
        assert tracking.log(record(stage="evaluate", pipeline_run="p"), PARAMS)
        assert (tracking.pending() == 1) is waits
    assert capsys.readouterr().err == ""


def test_a_run_killed_before_its_end_is_caught_up_with_its_hashes(client: MlflowClient, store: Path, record: Make,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the clock was set back in between, and the pipeline's record is named as the older one."""
    (store / "dvc.lock").write_text(LOCK)
    tracking.log(record(stage="data", family=None, pipeline_run="p"), PARAMS)
    tracking.log(record(pipeline_run="p"), PARAMS)
    assert tracking.pending() == 1
    monkeypatch.setattr(spool.time, "time_ns", lambda: 5)
    monkeypatch.setattr(tracking, "deliver", lambda *_: tracking.Delivery(0, 2, "killed"))
    tracking.finish("p", PARAMS)
    monkeypatch.undo()
    monkeypatch.chdir(store)
    assert tracking.pending() == 2 and spool.entries()[0].name.startswith("0" * 19 + "5-")
    tracking.catch_up(PARAMS)
    assert tracking.pending() == 0
    assert runs(client)["svd@gan"].data.tags["dvc.out.factors/gan.zarr"] == "md5:cc.dir"


def test_a_spool_that_cannot_be_read_costs_a_line_and_no_stage(
    store: Path, record: Make, capsys: pytest.CaptureFixture[str],
) -> None:
    spool.SPOOL.parent.mkdir()
    spool.SPOOL.write_text("")
    assert not tracking.log(record(pipeline_run="p"), PARAMS)
    assert "svd@gan is not logged and not kept for later" in capsys.readouterr().err


def test_a_bare_dvc_repro_is_one_run_too(client: MlflowClient, store: Path) -> None:
    (store / "stage.py").write_text(STAGE)
    (store / "dvc.yaml").write_text(
        f"stages:\n"
        f"  data: {{cmd: {sys.executable} stage.py data d, outs: [d]}}\n"
        f"  fit: {{cmd: {sys.executable} stage.py fit f, deps: [d], outs: [f]}}\n")
    for arguments in (["init", "-q"], ["repro"]):
        subprocess.run([sys.executable, "-m", "dvc", *arguments], check=True, capture_output=True)
    found = runs(client)
    (parent,) = (run for name, run in found.items() if name.startswith("pipeline dvc-"))
    assert {found[name].data.tags["mlflow.parentRunId"] for name in ("data", "fit")} == {parent.info.run_id}
    assert parent.info.status == "FINISHED"  # though no code of ours saw it end
    assert found["data"].data.tags["dvc.out.d"].startswith("md5:")


def test_sending_again_makes_no_second_run(client: MlflowClient, store: Path, record: Make) -> None:
    """An answer lost after a send; a send cut off after the run was created; a corrupt entry between them."""
    lost = spool.add(record(pipeline_run="p", series={"loss": [2.0, 1.0]}))
    shutil.copytree(lost, store / "kept")
    experiment = client.create_experiment(PARAMS.experiment)
    cut = record(stage="embed", pipeline_run="p", params={"a": 1}, metrics={"m": 1.0})
    half = client.create_run(experiment, run_name="embed@gan", tags={
        "nfk.record_id": cut.id, "nfk.pipeline_run": "p", "nfk.stage": "embed", "nfk.family": "gan"})
    client.log_param(half.info.run_id, "a", "1")
    spool.add(record()).joinpath("record.json").write_text("{")
    spool.add(cut)

    delivery = tracking.replay(PARAMS)
    assert (delivery.sent, delivery.left) == (2, 1)
    assert delivery.fault is not None and "ValidationError" in delivery.fault
    shutil.rmtree(spool.entries()[0])
    before = runs(client)
    shutil.copytree(store / "kept", lost)  # as if no answer had come
    assert tracking.replay(PARAMS) == (1, 0, None)

    found = runs(client)
    assert found.keys() == {"pipeline p", "svd@gan", "embed@gan"}
    assert found["svd@gan"].info.run_id == before["svd@gan"].info.run_id
    assert len(client.get_metric_history(found["svd@gan"].info.run_id, "loss")) == 2
    assert found["embed@gan"].info.run_id == half.info.run_id
    assert found["embed@gan"].info.status == "FINISHED" and found["embed@gan"].data.metrics == {"m": 1.0}


def test_a_retry_takes_the_place_of_the_earlier_attempt(client: MlflowClient, record: Make) -> None:
    for minute, status, rank in ((1, "FAILED", 8), (2, "FINISHED", 16)):
        spool.add(record(minute, pipeline_run="p", status=status, params={"rank": rank}))
    spool.add(record(0, pipeline_run="p", status="KILLED"))  # the first attempt, sent last
    spool.add(record(0, pipeline_run="p", family="vae"))
    spool.add(record(0, pipeline_run="q"))
    assert tracking.replay(PARAMS) == (5, 0, None)
    experiment = client.get_experiment_by_name(PARAMS.experiment)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], "tags.`nfk.pipeline_run` = 'p'")
    assert {(run.info.run_name, run.info.status, run.data.params.get("rank")) for run in found} == {
        ("svd@gan", "FINISHED", "16"), ("svd@vae", "FINISHED", None), ("pipeline p", "RUNNING", None)}
    assert len(found) == 3


def test_a_tracker_that_is_away_costs_a_replay(
    client: MlflowClient, store: Path, record: Make, closed_port: int, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Kept, and said in one line; no secret told anywhere; figures as they were when replayed."""
    secret = "hunter2-hunter2"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:{secret}@127.0.0.1:{closed_port}")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", secret)
    figure = store / "grid.png"
    figure.write_bytes(b"then")
    made = record(figures=(figure,), tags={"source": f"s3://ann:{secret}@host/x"}, params={"said": secret})
    begun = time.monotonic()
    assert not tracking.log(made, PARAMS)
    assert time.monotonic() - begun < 40
    figure.write_bytes(b"now")
    assert tracking.pending() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tracking: svd@gan is not logged to http://***@127.0.0.1:")
    assert "Connection refused" in line and line.endswith("`nfk track replay` sends it")

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking.replay(PARAMS) == (1, 0, None)
    run = runs(client)["svd@gan"]
    assert run.data.tags["source"] == "s3://***@host/x" and run.data.params["said"] == "***"
    assert (Path(run.info.artifact_uri) / "figures" / "grid.png").read_bytes() == b"then"
    for path in store.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path


@pytest.mark.usefixtures("workspace")
def test_a_tracker_that_never_answers_is_left_in_time(record: Make, monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert not tracking.log(record(), TrackingParams(uri=uri))
    assert "timed out" in capsys.readouterr().err


@pytest.mark.usefixtures("workspace")
def test_a_sender_that_hangs_is_ended(record: Make, monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("nfk.tracking.delivery._START_SECONDS", 0.0)
    monkeypatch.setattr("nfk.tracking.delivery._ENTRY_SECONDS", 0.2)
    assert not tracking.log(record(), PARAMS)
    assert "no answer within 0 s" in capsys.readouterr().err
    assert tracking.pending() == 1


@pytest.mark.usefixtures("workspace")
def test_a_missing_figure_is_said_not_raised(record: Make, capsys: pytest.CaptureFixture[str]) -> None:
    assert not tracking.log(record(figures=(Path("absent.png"),)), PARAMS)
    assert "svd@gan is not logged and not kept for later" in capsys.readouterr().err


@pytest.mark.usefixtures("workspace")
def test_nothing_to_replay_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", None)
    assert tracking.replay(PARAMS) == (0, 0, None)


def test_importing_the_tracker_imports_no_heavy_library() -> None:
    code = (f"import sys, json; sys.path.insert(0, {str(ROOT)!r}); import nfk.tracking; "
            "print(json.dumps(sorted({'mlflow', 'jax', 'numpy', 'prefect', 'dvc'} & sys.modules.keys())))")
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == []


def test_times_are_utc_by_default() -> None:
    made = StageRecord(stage="data", started=datetime.now(UTC) - timedelta(seconds=1))
    assert made.ended > made.started and made.ended.utcoffset() == timedelta(0)


def test_two_processes_that_come_first_make_one_store(tmp_path: Path) -> None:
    code = ("import sys; from nfk.tracking.mlflow_sink import _send_all; "
            "list(_send_all({'uri': sys.argv[1], 'experiment': 'nfk', 'entries': []}))")
    command = [sys.executable, "-c", code, f"sqlite:///{tmp_path}/mlflow.db"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    ended = [(process.communicate()[0], process.returncode) for process in both]
    assert [status for _, status in ended] == [0, 0], ended
