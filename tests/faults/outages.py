"""PostgreSQL, the object store, MLflow, Prefect, the worker: each killed in the middle of a run, and brought back.

    python -m tests.faults.outages                 each server at each moment, into tests/faults/results/outages.json
    python -m tests.faults.outages --server s3     one of them; --moment push: one moment
    python -m tests.faults.outages --soak 1800     runs for half an hour under load: none is called dead, then one is

Under `infra/local.sh` as its users have it: `nfk-refresh` from the worker, MLflow and Prefect on PostgreSQL, artifacts
and DVC's remote in the object store. A server's whole process group gets SIGKILL, and after some seconds
`infra/local.sh up` brings it back. Survived means: the run, or the next of its deployment where it failed, ends as
completed; the stores have the undisturbed run's digests; the remote has all of DVC's cache; MLflow has one embedder and
one set of embeddings, candidate and champion, and each of the run's records once; and no process is left.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import psutil
import typer

from tests.faults.kills import Workspace
from tests.faults.tally import Tally

RESULTS = Path(__file__).parent / "results" / "outages.json"
SERVERS = ("postgres", "s3", "mlflow", "prefect", "worker")
MOMENTS = {"svd": "repro --single-item --force svd@classifier",
           "evaluate": "repro --single-item --force evaluate@classifier",
           "register": "registry register classifier", "push": "dvc push"}
"""what the command line of a process of the run has then"""
STAGES = ("data", *(f"{stage}@classifier" for stage in ("pretrain", "statistics", "svd", "embed", "evaluate")),
          "baselines", "report")
_AWAY_SECONDS, _RUN_SECONDS, _SEEN_SECONDS, _TRIES = 20.0, 900.0, 60.0, 3


class Lost(AssertionError):
    """What was not survived."""


class Topology:
    """All servers of `infra/local.sh`, and a workspace that they serve. `changed`: what that script says otherwise."""

    def __init__(self, folder: Path, changed: Callable[[str], str] = str) -> None:
        self.folder = folder / "local"
        (folder / "workspace").mkdir()
        self.workspace = Workspace(folder / "workspace", also=("infra",))
        script = self.workspace.folder / "infra/local.sh"
        script.write_text(changed(script.read_text()))
        params = self.workspace.folder / "params.yaml"  # what is registered is judged by the vectors of all components
        params.write_text(params.read_text().replace("ranks: [4]", "ranks: [4, 12]"))
        self.run(sys.executable, "-m", "dvc", "remote", "add", "--quiet", "--default", "store", "s3://dvc/cache")
        self.run("git", "-c", "user.name=test", "-c", "user.email=test@example.invalid", "commit", "--quiet", "--all",
                 "--message", "a remote")
        self.up()
        self.workspace.environment |= dict(re.findall(r"(\w+)=(\S+)", (self.folder / "env").read_text()))

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(command, cwd=self.workspace.folder, env=self.workspace.environment, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_RUN_SECONDS)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout[-3000:]}")
        return done

    def up(self) -> None:
        self.run("bash", "infra/local.sh", "up", str(self.folder))

    def down(self) -> None:
        self.run("bash", "infra/local.sh", "down", str(self.folder), check=False)

    def kill(self, server: str) -> None:
        """All of its processes at once."""
        with suppress(ProcessLookupError):
            os.killpg(int((self.folder / f"{server}.pid").read_text()), signal.SIGKILL)

    def log(self, server: str, since: int = 0) -> str:
        return (self.folder / f"{server}.log").read_bytes()[since:].decode(errors="replace")

    def start(self, **options: Any) -> str:
        """The id of a new run of the deployed refresh."""
        said = self.run(sys.executable, "-m", "prefect", "deployment", "run", "nfk-refresh/refresh", "--param",
                        f"options={json.dumps(options)}").stdout
        found = re.search(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", said.partition("URL")[2] or said)
        if found is None:
            raise RuntimeError(f"no run was started: {said[-1000:]}")
        return found.group()

    def ask(self, path: str, **wanted: Any) -> Any:
        """Prefect's answer; None while it gives none."""
        body = json.dumps(wanted).encode() if wanted else None
        request = urllib.request.Request(f"{self.workspace.environment['PREFECT_API_URL']}/{path}", body,
                                         {"Content-Type": "application/json"})
        with suppress(OSError), urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)
        return None

    def flow_run(self, run_id: str) -> dict[str, Any]:
        return self.ask(f"flow_runs/{run_id}") or {"state_type": "UNKNOWN", "run_count": 0}

    def processes(self, run_id: str) -> list[psutil.Process]:
        """Those of a flow run, and what they started."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if (process.status() != psutil.STATUS_ZOMBIE
                        and process.environ().get("PREFECT__FLOW_RUN_ID") == run_id):
                    found.append(process)
        return found

    def forget(self) -> None:
        """MLflow without its runs and models, the remote without its files."""
        from boto3 import resource
        from mlflow import MlflowClient

        with patch.dict(os.environ, self.workspace.environment):
            client = MlflowClient(self.workspace.environment["MLFLOW_TRACKING_URI"])
            for model in client.search_registered_models():
                client.delete_registered_model(model.name)
            for run in self.records(client):
                client.delete_run(run.info.run_id)
            resource("s3").Bucket("dvc").objects.delete()

    def records(self, client: Any) -> list[Any]:
        experiment = client.get_experiment_by_name("nfk")
        return [] if experiment is None else list(client.search_runs([experiment.experiment_id], max_results=1000))

    def wrong(self, run_id: str, stages: Collection[str] = STAGES) -> str | None:
        """What is not as after an undisturbed run of these stages; the last run's id."""
        from mlflow import MlflowClient

        left = self.run(sys.executable, "-m", "nfk", "track", "replay").stdout
        if "left 0" not in left:
            return f"records wait: {left[-300:]}"
        cloud = self.run(sys.executable, "-m", "dvc", "status", "--cloud").stdout
        if "are in sync" not in cloud:
            return f"the remote lacks something: {cloud[-300:]}"
        if processes := self.processes(run_id):
            return f"left running: {[' '.join(process.cmdline()[-3:]) for process in processes]}"
        with patch.dict(os.environ, self.workspace.environment):
            client = MlflowClient(self.workspace.environment["MLFLOW_TRACKING_URI"])
            for name in ("nfk-classifier-embedder", "nfk-classifier-embeddings"):
                versions = [version.version for version in client.search_model_versions(f"name='{name}'")]
                aliases = client.get_registered_model(name).aliases
                if versions != ["1"] or aliases != {"candidate": "1", "champion": "1"}:
                    return f"{name}: versions {versions}, aliases {aliases}"
            runs = self.records(client)
            parents = [run for run in runs
                       if "mlflow.parentRunId" not in run.data.tags and "nfk.pipeline_run" in run.data.tags]
            names = Counter(run.data.tags["nfk.pipeline_run"] for run in parents)
            if not names or max(names.values()) > 1:
                return f"records of pipeline runs: {names}"
            parent = max(parents, key=lambda run: run.info.start_time)
            found = Counter(run.info.run_name for run in runs
                            if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id)
            if set(found) != set(stages) or max(found.values()) > 1 or parent.info.status != "FINISHED":
                return f"records of the run's stages: {found}, {parent.info.status}"
        loaded = self.run(sys.executable, "-c", "import mlflow; mlflow.pyfunc.load_model("
                          "'models:/nfk-classifier-embedder@champion')", check=False)
        return f"the registered embedder: {loaded.stdout[-300:]}" if loaded.returncode else None


def until(done: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise Lost(what)
        time.sleep(0.1)


def at_moment(topology: Topology, run_id: str, moment: str) -> None:
    """Until a process of the run does what the moment is called for."""
    def there() -> bool:
        for process in topology.processes(run_id):
            with suppress(psutil.Error):
                if MOMENTS[moment] in " ".join(process.cmdline()):
                    return True
        return False

    until(there, _RUN_SECONDS, f"{moment} was not reached")


def ended(topology: Topology, run_id: str) -> dict[str, Any]:
    """The run, once it is over; a crashed one is the worker's to take up."""
    found: dict[str, Any] = {}

    def over() -> bool:
        nonlocal found
        found = topology.flow_run(run_id)
        time.sleep(1)
        return found["state_type"] in ("COMPLETED", "FAILED", "CANCELLED")

    until(over, _RUN_SECONDS, f"the run does not end: {found.get('state_name')}")
    return found


def came_through(topology: Topology, run_id: str, wanted: Mapping[str, str], stages: Collection[str] = STAGES) -> str:
    """How the run of these stages, or one started after it failed, completed as an undisturbed one; Lost where it did
    not."""
    told: list[str] = []
    for _ in range(_TRIES):
        run = ended(topology, run_id)
        if run["state_type"] == "COMPLETED":
            break
        told.append(str(run["state"]["message"]))
        run_id = topology.start(always=tuple(stages))
    else:
        raise Lost(f"did not come through: {told}")
    if long := [message for message in told if "\n" in message or not message]:
        raise Lost(f"not told in one line: {long[0]!r}")
    if (found := topology.workspace.digests()) != wanted:
        raise Lost(f"other digests: {[name for name in wanted if found[name] != wanted[name]]}")
    if why := topology.wrong(run_id, stages):
        raise Lost(why)
    return f"tries {run['run_count']}, failed runs before: {told}"


def outage(topology: Topology, server: str, moment: str, delay: float, wanted: dict[str, str]) -> str | None:
    """One server gone at one moment of one run; why it was not survived."""
    topology.forget()
    run_id = topology.start(always=STAGES)
    try:
        at_moment(topology, run_id, moment)
        time.sleep(delay)
        topology.kill(server)
        time.sleep(_AWAY_SECONDS)
        topology.up()
        how, why = came_through(topology, run_id, wanted), None
    except Lost as lost:
        how, why = "", str(lost)
    print(f"{server} killed {delay:.1f} s into {moment}: {why or 'survived'}; {how}", flush=True)
    return None if why is None else f"{server} killed {delay:.1f} s into {moment}: {why}"


@contextmanager
def topologies(changed: Callable[[str], str] = str) -> Iterator[tuple[Topology, dict[str, str]]]:
    """The servers, after an undisturbed run, and the digests of what that made."""
    with tempfile.TemporaryDirectory(prefix="nfk-outages-") as name:
        Path(name).chmod(0o755)  # PostgreSQL may have to run as a user of its own
        topology = Topology(Path(name), changed)
        try:
            topology.run(sys.executable, "-m", "nfk", "deploy", "refresh")
            topology.run(sys.executable, "-m", "prefect", "deployment", "schedule", "clear", "--accept-yes",
                         "nfk-refresh/refresh")
            begun = time.monotonic()
            run_id = topology.start()
            run = ended(topology, run_id)
            why = topology.wrong(run_id) if run["state_type"] == "COMPLETED" else run["state"]["message"]
            if why:
                raise RuntimeError(f"the undisturbed run: {why}: {topology.log('worker')[-3000:]}")
            print(f"undisturbed: {time.monotonic() - begun:.0f} s", flush=True)
            yield topology, topology.workspace.digests()
        finally:
            topology.down()


def soak(topology: Topology, seconds: float, tally: Tally) -> None:
    """Runs one after another, none of which may be taken for dead; then one is killed, which must be seen in time."""
    before, begun, verdicts = len(topology.log("worker").encode()), time.monotonic(), []
    while time.monotonic() < begun + seconds:
        run = ended(topology, topology.start(always=STAGES))
        bad = run["state_type"] != "COMPLETED" or run["run_count"] != 1
        verdicts.append(f"{run['state_type']}, {run['run_count']} tries" if bad else None)
    if "was cut off" in topology.log("worker", before):
        verdicts.append("a run was called cut off")
    tally.tell(f"runs in {seconds / 60:.0f} minutes on end: none is taken for dead", verdicts)
    seen = []
    for moment in ("svd", "evaluate", "register"):
        run_id = topology.start(always=STAGES)
        at_moment(topology, run_id, moment)
        before = len(topology.log("worker").encode())
        for process in topology.processes(run_id):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        killed = time.monotonic()
        try:
            until(lambda since=before: "was cut off" in topology.log("worker", since), _SEEN_SECONDS,
                  f"killed in {moment} and not seen for {_SEEN_SECONDS:.0f} s")
            print(f"killed in {moment}: seen after {time.monotonic() - killed:.1f} s", flush=True)
            run = ended(topology, run_id)
            seen.append(None if run["state_type"] == "COMPLETED" else f"{moment}: {run['state']}")
        except Lost as lost:
            seen.append(str(lost))
    tally.tell(f"a run's processes killed: seen within {_SEEN_SECONDS:.0f} s, taken up and completed", seen)


def main(
    server: Annotated[str, typer.Option(help="one of postgres, s3, mlflow, prefect, worker; none: all")] = "",
    moment: Annotated[str, typer.Option(help="one of svd, evaluate, register, push; none: all")] = "",
    soak_seconds: Annotated[float, typer.Option("--soak", help="seconds of runs on end, instead of outages")] = 0.0,
    seed: int = 0,
) -> None:
    draw = random.Random(seed)
    with topologies() as (topology, wanted):
        tally = Tally(RESULTS, keep=not moment, away_seconds=_AWAY_SECONDS)
        if soak_seconds:
            soak(topology, soak_seconds, tally)
        else:
            for one in [server] if server else SERVERS:
                tally.tell(f"{one} killed in mid-run and brought back", [
                    outage(topology, one, when, draw.uniform(0, 3), wanted)
                    for when in ([moment] if moment else MOMENTS)])
    raise SystemExit(1 if tally.wrong else 0)


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
