"""All servers real, started by infra/local.sh on loopback: a scheduled refresh, from the data to a champion.

PostgreSQL behind Prefect and MLflow, an S3 store behind MLflow's artifacts and DVC's cache, MLflow with passwords.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path

import psutil
import pytest

from tests.pipeline.conftest import TINY, Workspace, clone, project, tiny  # noqa: F401 - fixtures

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PARAMS = TINY.replace("draws: 2", "draws: 3")  # evaluate and what follows run anew, as data does in each refresh
NAMES = ("postgres", "s3", "mlflow", "prefect", "worker")


def has_postgres() -> bool:
    return bool(shutil.which("initdb") or list(Path("/usr/lib/postgresql").glob("*/bin/initdb")))


@pytest.fixture(scope="module")
def topology(tiny):  # noqa: F811
    """The clone with a remote on the S3 store, its environment that of the servers; ended by their own ids."""
    if not has_postgres():
        if os.environ.get("NFK_REQUIRE_TOPOLOGY"):
            pytest.fail("PostgreSQL is not installed, and NFK_REQUIRE_TOPOLOGY is set")
        pytest.skip("PostgreSQL is not installed")
    clone = tiny  # noqa: F811
    clone.write_params(PARAMS)
    clone.run(sys.executable, "-m", "dvc", "remote", "add", "--quiet", "--default", "store", "s3://dvc/cache")
    clone.run("git", "commit", "--quiet", "--all", "--message", "a remote")
    with tempfile.TemporaryDirectory(prefix="nfk-topology-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL may have to run as a user of its own
        try:
            clone.run("bash", "infra/local.sh", "up", str(folder), MLFLOW_SERVER_ENABLE_JOB_EXECUTION="true")
            clone.environment |= dict(re.findall(r"(\w+)=(\S+)", (folder / "env").read_text()))
            yield clone, folder
        finally:
            pids = {name: int((folder / f"{name}.pid").read_text()) for name in NAMES
                    if (folder / f"{name}.pid").exists()}
            clone.run("bash", "infra/local.sh", "down", str(folder), check=False)
            assert not [name for name, pid in pids.items() if psutil.pid_exists(pid)]


@pytest.fixture(scope="module")
def refreshed(topology):
    """After the first scheduled run that ended: the run, as Prefect tells it."""
    clone, folder = topology  # noqa: F811
    clone.nfk("deploy", "refresh", "--every", "15")
    deadline = time.monotonic() + 600
    while not (ended := flow_runs(clone, "COMPLETED", "FAILED", "CRASHED")):
        assert time.monotonic() < deadline, (folder / "worker.log").read_text()[-4000:]
        time.sleep(1)
    clone.run(sys.executable, "-m", "prefect", "deployment", "schedule", "clear", "--accept-yes", "nfk-refresh/refresh")
    run, = ended[:1]
    assert run["state_type"] == "COMPLETED", (folder / "worker.log").read_text()[-4000:]
    return run


def flow_runs(clone: Workspace, *states: str) -> list[dict]:  # noqa: F811
    """The refresh's runs in these states, oldest first."""
    wanted = {"flow_runs": {"state": {"type": {"any_": list(states)}}}, "flows": {"name": {"any_": ["nfk-refresh"]}},
              "sort": "START_TIME_ASC"}
    request = urllib.request.Request(f"{clone.environment['PREFECT_API_URL']}/flow_runs/filter",
                                     json.dumps(wanted).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)


def test_a_schedule_fires_and_the_worker_runs_it_to_the_end(refreshed):
    assert refreshed["auto_scheduled"]
    assert refreshed["work_pool_name"] == "nfk-process"


def test_the_candidate_is_champion_and_its_run_is_on_the_mlflow_server(topology, refreshed):
    clone, _ = topology  # noqa: F811
    shown = clone.nfk("registry", "show", "nfk-classifier-embedder@champion").stdout
    assert "nfk-classifier-embedder/1 @candidate @champion" in shown
    assert f"git.commit {clone.run('git', 'rev-parse', 'HEAD').stdout.strip()}" in shown
    listed = clone.nfk("registry", "list").stdout
    assert "nfk-classifier-embeddings/1 @candidate @champion" in listed


def test_dvc_s_cache_is_in_the_object_store(topology, refreshed):
    clone, _ = topology  # noqa: F811
    assert "Cache and remote 'store' are in sync" in clone.run(
        sys.executable, "-m", "dvc", "status", "--cloud").stdout


def test_the_champion_is_rebuilt_from_its_entry_and_the_object_store(topology, refreshed):
    clone, _ = topology  # noqa: F811
    output = clone.nfk("registry", "rebuild", "nfk-classifier-embedder@champion").stdout
    assert len(re.findall(r"^\w+ +\w+ agrees$", output, re.MULTILINE)) == 5, output


def test_the_champion_is_fetched_whole_from_the_mlflow_server(topology, refreshed):
    """As `mlflow models serve` fetches it, and its vectors come out."""
    clone, _ = topology  # noqa: F811
    code = ("import mlflow, numpy as np\n"
            "model = mlflow.pyfunc.load_model('models:/nfk-classifier-embedder@champion')\n"
            "shape = model.metadata.signature.inputs.inputs[0].shape\n"
            "print('vectors', model.predict(np.full((2, *shape[1:]), 0.5, np.float32)).shape)")
    assert "vectors (2, 12)" in clone.run(sys.executable, "-c", code).stdout


def test_a_wrong_password_is_refused(topology):
    clone, _ = topology  # noqa: F811
    for password, expected in (("wrong", 401), (clone.environment["MLFLOW_TRACKING_PASSWORD"], 200)):
        request = urllib.request.Request(
            f"{clone.environment['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/search?max_results=1",
            headers={"Authorization": f"Basic {b64encode(f'admin:{password}'.encode()).decode()}"})
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                status = answer.status
        except urllib.error.HTTPError as error:
            status = error.code
        assert status == expected


def test_every_server_listens_on_loopback_only(topology):
    _, folder = topology
    listening = []
    for name in NAMES:
        leader = psutil.Process(int((folder / f"{name}.pid").read_text()))
        for process in (leader, *leader.children(recursive=True)):
            listening += [(name, port.laddr.ip) for port in process.net_connections("inet")
                          if port.status == psutil.CONN_LISTEN]
    assert {name for name, _ in listening} >= set(NAMES) - {"worker"}
    assert {address for _, address in listening} == {"127.0.0.1"}


def test_mlflow_runs_no_jobs(topology):
    """Seven processes of 250 MB, which local.sh leaves out whatever its own environment says."""
    _, folder = topology
    leader = psutil.Process(int((folder / "mlflow.pid").read_text()))
    assert leader.children(recursive=True)
    assert not [process for process in leader.children(recursive=True) if "huey" in " ".join(process.cmdline())]


def test_up_again_starts_just_what_was_killed(topology):
    clone, folder = topology  # noqa: F811
    before = {name: (folder / f"{name}.pid").read_text() for name in NAMES}
    os.killpg(int(before["s3"]), signal.SIGKILL)
    clone.run("bash", "infra/local.sh", "up", str(folder))
    now = {name: (folder / f"{name}.pid").read_text() for name in NAMES}
    assert {name for name in NAMES if now[name] != before[name]} == {"s3"}
    assert "in sync" in clone.run(sys.executable, "-m", "dvc", "status", "--cloud").stdout
    assert "nfk-classifier-embedder/1" in clone.nfk("registry", "list").stdout


def test_no_secret_is_in_logs_records_or_the_repository(topology, refreshed):
    """The database's, the store's and the tracker's passwords, searched for where people look."""
    clone, folder = topology  # noqa: F811
    secrets = [clone.environment[name] for name in
               ("NFK_DATABASE_PASSWORD", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD",
                "MLFLOW_FLASK_SERVER_SECRET_KEY")]
    places = [*folder.glob("*.log"), *(file for file in clone.folder.rglob("*")
                                       if file.is_file() and ".dvc/cache" not in str(file))]
    found = [(file, secret) for file in places for secret in secrets if secret.encode() in file.read_bytes()]
    assert len(places) > 100 and found == []
    shown = clone.nfk("registry", "show", "nfk-classifier-embedder@champion").stdout
    assert not [secret for secret in secrets if secret in shown]
    arguments = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert not [secret for secret in secrets if secret in arguments]
