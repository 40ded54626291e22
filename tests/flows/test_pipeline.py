"""The flow on a real DVC pipeline, against a real Prefect server; its end in a real MLflow store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import ValidationError

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.filterwarnings("ignore:_NoneStep.value will soon raise:DeprecationWarning"),
]


def run(**options: Any) -> None:
    from flows.pipeline import PipelineOptions, pipeline

    pipeline(PipelineOptions(**options))


def wait_for(path: Path, process: subprocess.Popen[Any] | None = None) -> str:
    deadline = time.monotonic() + 600
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline and (process is None or process.poll() is None), path
        time.sleep(0.1)
    return path.read_text()


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_all_ended(workspace: Path) -> None:
    pids = [int(pid) for pid in (workspace / "pids").read_text().split()]
    deadline = time.monotonic() + 60
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [pid for pid in pids if alive(pid)] == []


def start(*arguments: str, api: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PREFECT_API_URL": api, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", "flows.pipeline", *arguments], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_the_whole_pipeline_and_then_a_failing_stage(workspace: Path,
                                                     capfd: pytest.CaptureFixture[str]) -> None:
    from mlflow import MlflowClient
    from prefect.client.orchestration import get_client

    from flows.dvc_stage import StageFailed

    (workspace / "evaluation/gan/figures").mkdir(parents=True)
    (workspace / "evaluation/gan/figures/accuracy.png").write_bytes(b"a figure")
    (workspace / "evaluation/gan/metrics.json").write_text(
        '{"features": {"nfk-8": {"logistic": {"accuracy": 0.9, "standard_error": 0.01}}}}')
    run()
    assert (workspace / "report.txt").read_text() == "ganvae"
    terminal = "".join(capfd.readouterr())
    assert terminal.count("Task run 'fit@gan' - fitting gan\n") == terminal.count("fitting gan\n") == 1

    seen = json.loads((workspace / "seen-gan.json").read_text())
    pipeline_run = seen["NFK_PIPELINE_RUN"]
    assert pipeline_run == json.loads((workspace / "seen-vae.json").read_text())["NFK_PIPELINE_RUN"]
    assert seen["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    with get_client(sync_client=True) as prefect:
        flow_run = prefect.read_flow_run(pipeline_run.removeprefix("prefect-"))
        assert flow_run.state is not None and flow_run.state.is_completed()
        artifacts = {artifact.key: artifact.data for artifact in prefect.read_artifacts()  # other tests' flows, too
                     if artifact.flow_run_id == flow_run.id}
    assert json.loads(artifacts["nfk-metrics"])[0]["accuracy"] == 0.9
    assert "| report | report.txt | `md5:" in artifacts["nfk-lineage"]
    assert artifacts["nfk-accuracy-gan"] == "data:image/png;base64,YSBmaWd1cmU="

    (workspace / "order").write_text("fail")
    (workspace / "report.txt").unlink()
    with pytest.raises(StageFailed, match=r"stage fit@vae failed .*dvc repro"):
        run(force=True)
    terminal = "".join(capfd.readouterr())
    assert "Task run 'fit@vae' - loss is NaN at step 3" in terminal
    assert "Traceback" not in terminal  # Prefect's own frames
    assert not (workspace / "report.txt").exists()  # stages after it do not run

    client = MlflowClient(f"sqlite:///{workspace}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'nfk'")
    parents = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    assert [parent.info.status for parent in parents] == ["FINISHED", "FAILED"]
    assert parents[0].data.tags["nfk.pipeline_run"] == pipeline_run
    assert f"prefect-{parents[0].data.tags['prefect.flow_run_id']}" == pipeline_run


@pytest.mark.usefixtures("untracked")
def test_a_stage_that_failed_is_tried_again(workspace: Path) -> None:
    (workspace / "order").write_text("fail once")
    run(families=("vae",), retries=1, retry_delay_seconds=0)
    assert (workspace / "vae.txt").exists() and not (workspace / "report.txt").exists()


@pytest.mark.usefixtures("untracked")
def test_a_stage_out_of_time_is_ended_with_its_children(workspace: Path) -> None:
    from flows.dvc_stage import StageFailed

    (workspace / "order").write_text("wait")
    with pytest.raises(StageFailed, match="stage fit@vae was ended: it ran longer than stage_seconds=8"):
        run(families=("vae",), stage_seconds=8)
    assert_all_ended(workspace)


def test_a_second_flow_is_refused_and_an_ended_flow_leaves_no_process(workspace: Path,
                                                                      prefect_server: str) -> None:
    (workspace / "order").write_text("wait")
    # nothing listens there: the flow's end finds no tracker
    (workspace / "params.yaml").write_text(
        (workspace / "params.yaml").read_text() + "tracking: {uri: 'http://127.0.0.1:9'}\n")
    first = start("--family", "vae", api=prefect_server)
    try:
        stage = int(wait_for(workspace / "pids", first).split()[0])
        holders = [process.pid for process in psutil.Process(stage).parents()[:4]
                   if any(file.path.endswith(".nfk/pipeline.lock") for file in process.open_files())]
        assert first.pid in holders and len(holders) == 2  # DVC too, so that it counts if the flow is killed
        second = start(api=prefect_server)
        said, _ = second.communicate(timeout=600)
        assert second.returncode == 2
        assert said.splitlines() == [f"a pipeline already runs in this workspace, process {first.pid} "
                                     "(.nfk/pipeline.lock); wait for it, or end it"]
        first.send_signal(signal.SIGTERM)
        said, _ = first.communicate(timeout=600)
        assert first.returncode != 0
        assert "fit@vae" in said and "records that wait for the tracker: 1;" in said
        assert_all_ended(workspace)
    finally:
        first.kill()
        first.wait()


def test_without_a_tracker_results_are_whole_and_the_exit_status_says_so(
        workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.pipeline import UNTRACKED, main

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert main(["--family", "gan"]) == UNTRACKED
    assert (workspace / "gan.txt").exists()


@pytest.mark.parametrize(("arguments", "said"), [
    (["--family", "gann"], "family 'gann' is not in params.yaml; there are gan, vae, did you mean 'gan'?"),
    (["--retries", "30"], "retries=30: Input should be less than or equal to 10"),
])
def test_wrong_options_are_refused_before_anything_starts(
        workspace: Path, arguments: list[str], said: str, prefect_server: str) -> None:
    process = start(*arguments, api=prefect_server)
    output, _ = process.communicate(timeout=600)
    assert (process.returncode, output.strip()) == (2, said)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValidationError, match="famlies"):
        run(famlies=("gan",))
