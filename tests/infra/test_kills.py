"""Servers and worker killed in mid-run: what is finished stays finished, and the run ends under its own id.

MLflow and Prefect on SQLite, as processes of this file on free ports, ended by their own ids.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from nfk import store
from tests.pipeline.conftest import TINY, Workspace, clone, project, tiny  # noqa: F401 - fixtures

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PARAMS = TINY.replace("model_samples: 64", "model_samples: 60")  # data, baselines and pretrain are in DVC's cache
STAGES = {"report"} | {f"{stage}@classifier" for stage in ("statistics", "svd", "embed", "evaluate")}


class Server:
    """A process group that can be killed and started again."""

    def __init__(self, command: list[str], workspace: Workspace, log: Path, health: str | None = None) -> None:
        self._command, self._workspace, self._log, self._health = command, workspace, log, health
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as output:
            self.process = subprocess.Popen(self._command, cwd=self._workspace.folder, env=self._workspace.environment,
                                            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                            start_new_session=True)
        if self._health is not None:
            wait_until(self._answers, self, seconds=180)

    def kill(self) -> None:
        """All of the group at once, as the system or a power cut would."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def said(self, since: int = 0) -> str:
        return self._log.read_bytes()[since:].decode(errors="replace")

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(self._health, timeout=2).close()
        except OSError:
            return False
        return True


class Servers(NamedTuple):
    clone: Workspace
    mlflow: Server
    prefect: Server
    worker: Server


def wait_until(done: Callable[[], object], server: Server, *, seconds: float = 300, every: float = 0.2) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, server.said()[-4000:]
        time.sleep(every)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def servers(tiny: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:  # noqa: F811
    clone, folder = tiny, tmp_path_factory.mktemp("servers")  # noqa: F811
    ports = {"mlflow": free_port(), "prefect": free_port()}
    clone.environment |= {
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{ports['mlflow']}", "NFK_WORKSPACE": str(clone.folder),
        "PREFECT_API_URL": f"http://127.0.0.1:{ports['prefect']}/api", "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "true"}
    clone.write_params(PARAMS)
    host = ["--host", "127.0.0.1", "--port"]
    made = Servers(
        clone,
        Server([sys.executable, "-m", "mlflow", "server", *host, str(ports["mlflow"]), "--workers", "1",
                "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination",
                str(folder / "artifacts")], clone, folder / "mlflow.log",
               f"{clone.environment['MLFLOW_TRACKING_URI']}/health"),
        Server([sys.executable, "-m", "prefect", "server", "start", *host, str(ports["prefect"])], clone,
               folder / "prefect.log", f"{clone.environment['PREFECT_API_URL']}/health"),
        Server([sys.executable, "-m", "nfk", "worker"], clone, folder / "worker.log"))
    try:
        made.mlflow.start()
        made.prefect.start()
        yield made
    finally:
        for server in made[1:]:
            if server.process is not None:
                server.kill()
        for process in processes(clone):
            process.kill()


def processes(clone: Workspace) -> list[psutil.Process]:  # noqa: F811
    """Every process that has the clone's Prefect home in its environment: those of flow runs lead their own groups."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PREFECT_HOME") == clone.environment["PREFECT_HOME"]:
                found.append(process)
        except psutil.Error:
            continue
    return found


def stages_run(text: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", text)


def stage_runs(servers: Servers, **parent_tags: str) -> tuple[list, list]:
    """The parents with these tags and their children, as the MLflow server has them."""
    from mlflow import MlflowClient

    client = MlflowClient(servers.clone.environment["MLFLOW_TRACKING_URI"])
    runs = client.search_runs([client.get_experiment_by_name("nfk").experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags
               and parent_tags.items() <= run.data.tags.items()]
    ids = {run.info.run_id for run in parents}
    return parents, [run for run in runs if run.data.tags.get("mlflow.parentRunId") in ids]


@pytest.fixture(scope="module")
def untold(servers: Servers) -> subprocess.CompletedProcess[str]:
    """A run of the whole pipeline in which MLflow is killed once statistics has ended."""
    clone = servers.clone  # noqa: F811
    with subprocess.Popen([sys.executable, "-m", "flows.pipeline"], cwd=clone.folder, env=clone.environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            made = clone.folder / "statistics/classifier.zarr"
            wait_until(lambda: made.exists() or process.poll() is not None, servers.prefect)
            servers.mlflow.kill()
            said, _ = process.communicate(timeout=600)
        finally:
            process.kill()
    return subprocess.CompletedProcess([], process.returncode, said)


def test_without_mlflow_the_run_ends_with_its_results_and_replay_completes_the_record(
        servers: Servers, untold: subprocess.CompletedProcess[str]) -> None:
    clone = servers.clone  # noqa: F811
    assert untold.returncode == 3, untold.stdout[-4000:]
    assert set(stages_run(untold.stdout)) == STAGES
    assert (clone.folder / "report/index.html").exists()
    said = untold.stdout  # by a stage a minute after the last sending, or by the run at its end
    assert re.search(r"tracking: \S.* is not logged to .*: .*refused; it waits in \.nfk/spool, `nfk track replay` "
                     "sends it", said)
    waiting = int(re.search(r"records that wait for the tracker: (\d+); `nfk track replay` sends them", said)[1])
    assert 4 <= waiting <= len(STAGES) + 1  # svd, embed, evaluate, report at least; all stages and the run at most
    servers.mlflow.start()
    assert re.search(rf"^sent {waiting}, left 0$", clone.nfk("track", "replay").stdout, re.MULTILINE)
    (parent,), children = stage_runs(servers)
    assert parent.info.status == "FINISHED"
    assert {run.info.run_name for run in children} == STAGES
    (svd,) = [run for run in children if run.info.run_name == "svd@classifier"]
    assert svd.data.tags["dvc.out.factors/classifier.zarr"].startswith("md5:")


def flow_run(clone: Workspace, run_id: str) -> dict:  # noqa: F811
    try:
        with urllib.request.urlopen(f"{clone.environment['PREFECT_API_URL']}/flow_runs/{run_id}", timeout=10) as answer:
            return json.load(answer)
    except OSError:
        return {"state_type": "UNKNOWN"}


def start_deployment(servers: Servers) -> str:
    """The id of a new run of the deployed pipeline."""
    said = servers.clone.run(sys.executable, "-m", "prefect", "deployment", "run", "nfk-pipeline/pipeline").stdout
    return re.search(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", said.partition("URL")[2] or said).group()


def wait_for_the_end(servers: Servers, run_id: str) -> dict:
    run: dict = {}

    def ended() -> bool:
        nonlocal run
        run = flow_run(servers.clone, run_id)
        return run["state_type"] in ("COMPLETED", "FAILED", "CANCELLED")

    wait_until(ended, servers.worker, every=0.5)
    return run


@pytest.fixture(scope="module")
def deployed(servers: Servers, untold: subprocess.CompletedProcess[str]) -> Servers:
    """The pipeline's deployment and a worker; what `untold` made is there."""
    if servers.mlflow.process is None or servers.mlflow.process.poll() is not None:
        servers.mlflow.start()
    servers.clone.run(sys.executable, "-m", "prefect", "work-pool", "create", "nfk-process", "--type", "process")
    servers.clone.nfk("deploy", "pipeline")
    servers.worker.start()
    return servers


def test_a_flow_outlives_its_prefect_server(deployed: Servers) -> None:
    """Killed between two stages and started again: the same process goes on, no stage is run twice."""
    deployed.clone.write_params(PARAMS.replace("A small case", "Another title"))
    run_id = start_deployment(deployed)
    wait_until(lambda: "Stage 'statistics@classifier' didn't change" in deployed.worker.said(), deployed.worker)
    deployed.prefect.kill()
    time.sleep(2)
    deployed.prefect.start()
    run = wait_for_the_end(deployed, run_id)
    assert (run["state_type"], run["run_count"]) == ("COMPLETED", 1), deployed.worker.said()[-4000:]
    assert stages_run(deployed.worker.said()) == ["report"]


def _is_of(process: psutil.Process, run_id: str) -> bool:
    with contextlib.suppress(psutil.Error):
        return (process.status() != psutil.STATUS_ZOMBIE
                and process.environ().get("PREFECT__FLOW_RUN_ID") == run_id)
    return False


def test_a_run_killed_with_its_worker_in_svd_goes_on_from_its_blocks(deployed: Servers) -> None:
    """SIGKILL for all of it, as a power cut: the worker, started again, takes the run up under its id."""
    clone = deployed.clone  # noqa: F811
    # in blocks of 2 a pass lasts long enough to be killed in, on a busy machine too
    clone.write_params(PARAMS.replace("rank: 12", "rank: 11").replace("stream, block: 32", "stream, block: 2"))
    before = len(deployed.worker.said().encode())
    run_id = start_deployment(deployed)
    scratch = clone.folder / ".nfk/scratch"
    wait_until(lambda: list(scratch.glob("svd-classifier-*/krylov-2.safetensors")), deployed.worker, every=0.002)
    deployed.worker.kill()
    killed = 0
    while alive := [process for process in processes(clone) if _is_of(process, run_id)]:  # one may just have begun
        for process in alive:
            process.kill()
        killed += len(alive)
    assert killed >= 2 and not (clone.folder / "factors/classifier.zarr").exists()
    assert flow_run(clone, run_id)["state_type"] == "RUNNING"
    first = deployed.worker.said()[before:]
    middle = len(deployed.worker.said().encode())

    deployed.worker.start()
    run = wait_for_the_end(deployed, run_id)
    second = deployed.worker.said(since=middle)
    assert (run["state_type"], run["run_count"]) == ("COMPLETED", 2), second[-4000:]
    assert "was cut off and is scheduled again" in second
    assert stages_run(first) == ["svd@classifier"]
    assert stages_run(second) == ["svd@classifier", "embed@classifier", "evaluate@classifier", "report"]
    assert "pass 1 of" not in second and "pass 3 of" in second
    assert store.read(clone.folder / "factors/classifier.zarr")["left"].shape == (300, 11)
    parents, children = stage_runs(deployed, **{"nfk.pipeline_run": f"prefect-{run_id}"})
    assert [parent.info.status for parent in parents] == ["FINISHED"]
    assert {child.info.run_name for child in children} >= {"svd@classifier", "report"}
