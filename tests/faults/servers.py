"""A real MLflow behind a proxy that is slow, fails, refuses, or loses the answer to the n-th call, for every n.

    python -m tests.faults.servers                       all of it, into tests/faults/results/servers.json
    python -m tests.faults.servers --fault slow          one kind of fault; --case promotion: one command
    python -m tests.faults.servers --every 5             each fifth call, nothing written

One registration, one promotion and one replay of a spool, each again until it comes through. Survived means: what
failed was told in one line, and at the end MLflow's whole state, every row of its database and every artifact, is an
undisturbed run's: nothing twice, nothing lost.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from unittest.mock import patch

import numpy as np
import typer

from nfk import registry, tracking
from nfk.params import TrackingParams
from nfk.registry import registration
from nfk.registry.registration import Content
from nfk.tracking import delivery, mlflow_sink, spool
from nfk.tracking.record import PipelineRecord, StageRecord
from tests.faults import proxy as proxies
from tests.faults.proxy import Proxy

RESULTS = Path(__file__).parent / "results" / "servers.json"
_START_SECONDS = 180.0
_TRIES = 3
"""of a command, where one answer is lost"""

# what differs from run to run without meaning anything
_DRAWN = re.compile(r"m-[0-9a-f]{32}|[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_EXPERIMENT = re.compile(r"(?<=mlflow-artifacts:/)\d+\b")
_TIMED = re.compile(r"time|_at$|_ms$")
_TIME_OF_A_MODEL = re.compile(r"utc_time_created: .*")


class Mlflow(NamedTuple):
    folder: Path
    port: int


@contextmanager
def mlflow_server(folder: Path, *, bare: bool = False) -> Iterator[Mlflow]:
    """`mlflow server` on SQLite, on a free port of loopback, in a process group that ends with the block. bare: the
    same application without the command around it, at half of the price."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "NFK_"))} | {
        "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    database, artifacts, at = f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts"), ["--host", "127.0.0.1",
                                                                                           "--port", str(port)]
    command = [sys.executable, "-m", "mlflow", "server", *at, "--workers", "1", "--backend-store-uri", database,
               "--artifacts-destination", artifacts]
    if bare:  # what the command hands to the application
        command = [sys.executable, "-m", "uvicorn", *at, "mlflow.server.fastapi_app:app"]
        environment |= {"_MLFLOW_SERVER_FILE_STORE": database, "_MLFLOW_SERVER_REGISTRY_STORE": database,
                        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/", "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
                        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": artifacts}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   start_new_session=True, env=environment)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                # the first question makes the database, where the command has not
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get-by-name"
                                       "?experiment_name=Default", timeout=120).close()
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((folder / "log").read_text()[-2000:])
            time.sleep(0.1)
        yield Mlflow(folder, port)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# --- what MLflow holds ---


def state(server: Mlflow, label: str) -> Counter[str]:
    """Every row of every table and every artifact; ids, times and the label stand for themselves."""
    def told(text: str) -> str:
        return _EXPERIMENT.sub("EXPERIMENT", _DRAWN.sub("ID", text)).replace(label, "LABEL")

    found: Counter[str] = Counter()
    with closing(sqlite3.connect(f"file:{server.folder / 'mlflow.db'}?mode=ro", uri=True)) as database:
        tables = [name for name, in database.execute("select name from sqlite_master where type = 'table'")]
        for table in tables:
            rows = database.execute(f'select * from "{table}"')
            columns = [column[0] for column in rows.description]
            for row in rows:
                kept = {column: "EXPERIMENT" if column == "experiment_id" else value
                        for column, value in zip(columns, row, strict=True) if not _TIMED.search(column)}
                found[told(f"{table} {kept}")] += 1
    for file in sorted((server.folder / "artifacts").rglob("*")):
        if file.is_file():
            name = file.relative_to(server.folder / "artifacts")
            content = file.read_bytes()
            if file.name == "MLmodel":
                content = told(_TIME_OF_A_MODEL.sub("", content.decode())).encode()
            digest = hashlib.sha256(content).hexdigest()[:16]
            found[told(f"artifact {'/'.join(('EXPERIMENT', *name.parts[1:]))} {digest}")] += 1
    return found


# --- what is done ---


class Case:
    """Something that is done through the proxy; `label` keeps one time apart from another."""

    name: str

    def __init__(self, folder: Path, server: Mlflow) -> None:
        self.folder, self.server = folder, server

    def prepare(self, label: str) -> None:
        """What is there before; not through the proxy."""

    def act(self, label: str, uri: str) -> str | None:
        """As its command does it; None, or the one line it ends with where it did not come through."""
        raise NotImplementedError


class Registration(Case):
    name = "registration"

    def __init__(self, folder: Path, server: Mlflow) -> None:
        super().__init__(folder, server)
        package = folder / "package"
        package.mkdir()
        (package / "serving.py").write_text(
            "import mlflow\nimport numpy as np\nfrom mlflow.pyfunc import PythonModel\n\n\nclass Served(PythonModel):\n"
            "    def predict(self, context, model_input: np.ndarray, params=None):\n        return model_input\n\n\n"
            "mlflow.models.set_model(Served())\n")
        for name in ("embedder", "embeddings.zarr"):
            (folder / name).mkdir()
            (folder / name / "numbers").write_bytes(name.encode() * 100)
        (folder / "params.yaml").write_text("seed: 0\n")
        self.package = package

    def act(self, label: str, uri: str) -> str | None:
        tags = {"digest.embedder": "d", "digest.embeddings": "e", "gate.metric": "accuracy", "gate.value": "0.9",
                "git.commit": "c" * 40, "git.dirty": "false"}
        content = Content(
            family=label, embedder=self.folder / "embedder", embeddings=self.folder / "embeddings.zarr",
            examples=np.zeros((1, 4, 4, 1), np.float32), rank=2, metrics={"accuracy": 0.9, "explained_variance": 0.5},
            tags=tags, embeddings_tags={"digest": "e", "k": "2"}, code=(), files=(self.folder / "params.yaml",))
        with patch.object(registration, "PACKAGE", self.package):
            return _told(lambda client: registration.register(client, content, label), uri, label)


class Promotion(Case):
    name = "promotion"

    def prepare(self, label: str) -> None:
        pair = registry.names(label)
        with registry.connect(TrackingParams(uri=f"http://127.0.0.1:{self.server.port}")) as client:
            for name in pair:
                client.create_registered_model(name)
                for version, value in (("1", "0.9"), ("2", "0.95")):
                    client.create_model_version(name, source="s3://none/none", tags={
                        "gate.metric": "accuracy", "gate.value": value, "nfk.embedder_version": version})
            registry.promote(client, f"{pair.embedder}/1")

    def act(self, label: str, uri: str) -> str | None:
        return _told(lambda client: registry.promote(client, f"{registry.names(label).embedder}/2"), uri, label)


def _told(action: Callable[[Any], object], uri: str, label: str) -> str | None:
    try:
        with registry.connect(TrackingParams(uri=uri, experiment=label)) as client:
            action(client)
    except registry.RegistryError as error:
        return str(error)
    return None


class Replay(Case):
    """Two stages of a pipeline run and its end wait in a spool."""

    name = "replay of the spool"

    def prepare(self, label: str) -> None:
        place = self.folder / label
        place.mkdir()
        os.chdir(place)
        (place / "figure.png").write_bytes(b"picture")
        (place / "dvc.lock").write_text("schema: '2.0'\n")
        began = datetime(2026, 1, 1, tzinfo=UTC)
        for stage in ("svd", "embed"):
            spool.add(StageRecord(
                id=f"{label}-{stage}", stage=stage, family="gan", pipeline_run=label, started=began, ended=began,
                params={"rank": "8"}, metrics={"seconds": 1.0}, series={"loss": (2.0, 1.0)}, tags={"digest": "d"},
                figures=(Path("figure.png"),)))
        spool.add(PipelineRecord(pipeline_run=label, started=began, ended=began, artifacts=(Path("dvc.lock"),),
                                 stage_tags={"svd@gan": {"dvc.out.factors": "md5:1"}}))

    def act(self, label: str, uri: str) -> str | None:
        os.chdir(self.folder / label)
        with patch.object(delivery, "_run_sender", _send_here):
            found = tracking.replay(TrackingParams(uri=uri, experiment=label))
        return found.fault if found.left else None


class ReplayByItsProcess(Replay):
    """As `nfk track replay` does it, its sender a process of its own."""

    name = "replay of the spool by its process"

    def act(self, label: str, uri: str) -> str | None:
        os.chdir(self.folder / label)
        found = tracking.replay(TrackingParams(uri=uri, experiment=label))
        return found.fault if found.left else None


def _send_here(entries: list[Path], params: TrackingParams, seconds: float) -> tuple[dict[Path, str | None], str]:
    """The sender's work without its process, whose start takes longer than the work."""
    request = mlflow_sink.Request(uri=params.uri, experiment=params.experiment, entries=[str(path) for path in entries])
    with patch.dict(os.environ, delivery._QUICK | delivery._QUIET):
        outcomes = list(mlflow_sink._send_all(request))
    return {Path(outcome["entry"]): outcome["error"] for outcome in outcomes}, "the sender ended"


# --- faults ---


class Attempt(NamedTuple):
    label: str
    why: str | None
    """it was lost"""
    failed: int
    """tries that were told to have failed"""


class Trial:
    """A case under faults, each held against the undisturbed run of the same case."""

    def __init__(self, case: Case, through: Proxy) -> None:
        self.case, self.through, self._count = case, through, 0
        through.reset()
        begun = self._begin()
        if (fault := case.act(begun, through.address)) is not None:
            raise RuntimeError(f"the undisturbed {case.name} failed: {fault}")
        self.calls = list(through.calls)
        self.wanted = self._since(begun)

    def _begin(self) -> str:
        self._count += 1
        label = f"{type(self.case).__name__.lower()}-n{self._count:03}e"  # no label is part of another
        self.case.prepare(label)
        self._before = state(self.case.server, label)
        return label

    def _since(self, label: str) -> Counter[str]:
        after = state(self.case.server, label)
        gone = self._before - after
        found = after - self._before
        found.update({f"gone: {row}": count for row, count in gone.items()})
        return found

    def lost_answer(self, number: int) -> Attempt | None:
        """The number-th call's answer is lost, and the command given again until it comes through; None where there
        was no such call."""
        label = self._begin()
        self.through.reset(lose=number)
        faults = []
        for _ in range(_TRIES):
            fault = self.case.act(label, self.through.address)
            if fault is None:
                break
            faults.append(fault)
        lost = self.through.lost
        self.through.reset()
        if not lost:
            return None
        return self._judged(label, f"answer {number} ({lost[0]}) lost", faults, came_through=fault is None)

    def slow(self, seconds: float) -> Attempt:
        """Each answer takes so long; the first try comes through."""
        label = self._begin()
        self.through.reset(seconds=seconds)
        fault = self.case.act(label, self.through.address)
        self.through.reset()
        return self._judged(label, f"{seconds:g} s an answer", [fault] if fault else [], came_through=fault is None)

    def away(self, seconds: float, how: str) -> Attempt:
        """For some seconds each call is answered 500, or refused; the command is given again and again meanwhile, and
        the first after it comes through."""
        label = self._begin()
        self.through.reset(failing=how == "failing")
        if how == "refused":
            self.through.refuse()
        faults, ends = [], time.monotonic() + seconds
        while True:
            over = time.monotonic() > ends
            if over:
                self._mend(how)
            fault = self.case.act(label, self.through.address)
            if fault is None:
                break
            faults.append(fault)
            if over:
                break
            time.sleep(min(1.0, seconds / 4))
        self._mend(how)
        return self._judged(label, f"{how} for {seconds:g} s", faults, came_through=fault is None and bool(faults))

    def broken_in_the_middle(self, number: int, seconds: float) -> Attempt:
        """From the number-th call on each is answered 500, for some seconds."""
        label = self._begin()
        self.through.reset()
        through = self.through
        ended = threading.Event()

        def watch() -> None:
            while len(through.calls) < number and not ended.wait(0.001):
                pass
            through.failing = True
            ended.wait(seconds)
            through.failing = False

        watcher = threading.Thread(target=watch)
        watcher.start()
        faults: list[str] = []
        for _ in range(60):
            fault = self.case.act(label, through.address)
            if fault is None:
                break
            faults.append(fault)
            time.sleep(seconds / 4)
        ended.set()
        watcher.join()
        through.reset()
        return self._judged(label, f"500 from call {number} on", faults, came_through=fault is None)

    def _mend(self, how: str) -> None:
        self.through.failing = False
        if how == "refused" and self.through._server is None:
            self.through.listen()

    def _judged(self, label: str, what: str, faults: list[str], *, came_through: bool) -> Attempt:
        why = None
        if not came_through:
            why = f"did not come through: {faults[-1:]}"
        elif many := [fault for fault in faults if "\n" in fault or not fault]:
            why = f"not told in one line: {many[0]!r}"
        elif (found := self._since(label)) != self.wanted:
            more, less = found - self.wanted, self.wanted - found
            why = f"MLflow has more {_some(more)}; less {_some(less)}"
        return Attempt(label, None if why is None else f"{self.case.name}, {what}: {why}", len(faults))


def _some(rows: Mapping[str, int]) -> str:
    return "; ".join(f"{row[:300]} ({count} times)" for row, count in sorted(rows.items())[:4]) or "nothing"


@contextmanager
def trials(*kinds: type[Case], bare: bool = False) -> Iterator[list[Trial]]:
    """A server, a proxy before it, and the undisturbed runs."""
    folder = Path(tempfile.mkdtemp(prefix="nfk-servers-"))
    before = Path.cwd()
    kept = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    try:
        (folder / "server").mkdir()
        # MLflow's client waits up to a second before it repeats a request
        os.environ |= {f"MLFLOW_HTTP_REQUEST_BACKOFF_{what}": "0" for what in ("FACTOR", "JITTER")}
        with mlflow_server(folder / "server", bare=bare) as server, proxies.before(server.port) as through:
            found = []
            for kind in kinds:
                place = folder / kind.__name__
                place.mkdir()
                found.append(Trial(kind(place, server), through))
            yield found
    finally:
        os.chdir(before)
        for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
            del os.environ[name]
        os.environ.update(kept)
        shutil.rmtree(folder, ignore_errors=True)


KINDS = {kind.name: kind for kind in (Registration, Promotion, Replay, ReplayByItsProcess)}
FAULTS = ("lost answer", "broken", "slow", "failing", "refused")


def attempts(trial: Trial, fault: str, *, every: int, seconds: float, slow: float) -> Iterator[Attempt]:
    """All of one kind."""
    if fault == "lost answer":
        for number in itertools.count(1, every):
            if (attempt := trial.lost_answer(number)) is None:
                return
            yield attempt
    elif fault == "broken":
        for number in range(1, len(trial.calls) + 1, 5 * every):
            yield trial.broken_in_the_middle(number, 1.5)
    elif fault == "slow":
        yield trial.slow(slow)
    else:
        yield trial.away(seconds, fault)


def main(
    case: Annotated[list[str] | None, typer.Option(help=f"only this one: {', '.join(KINDS)}")] = None,
    fault: Annotated[list[str] | None, typer.Option(help=f"only this one: {', '.join(FAULTS)}")] = None,
    every: Annotated[int, typer.Option(min=1, help="each so-manieth call")] = 1,
    seconds: Annotated[float, typer.Option(help="how long the server is away")] = 60.0,
    slow: Annotated[float, typer.Option(help="seconds for each answer")] = 5.0,
) -> None:
    """Try all, print what was lost, write the results; a part alone replaces its own rows."""
    from tests.benchmarks.environment import environment

    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    rows = {(row["case"], row["fault"]): row for row in kept["rows"]}
    wrong = False
    with trials(*(KINDS[name] for name in case or KINDS)) as found:
        for trial, what in itertools.product(found, fault or FAULTS):
            name = trial.case.name
            # the process changes nothing of what is asked for; what is away or slow it meets as its command does
            if (name == Replay.name) != (what in FAULTS[:2]) and name in (Replay.name, ReplayByItsProcess.name):
                continue
            begun = time.time()
            tried = list(attempts(trial, what, every=every, seconds=seconds, slow=slow))
            lost = [attempt.why for attempt in tried if attempt.why is not None]
            wrong = wrong or bool(lost)
            rows[name, what] = {"case": name, "fault": what, "tried": len(tried), "survived": len(tried) - len(lost),
                                "told_to_have_failed": sum(attempt.failed for attempt in tried),
                                "seconds": round(time.time() - begun), "lost": lost}
            print(*lost, f"{name}, {what}: {len(tried) - len(lost)} of {len(tried)}", sep="\n", flush=True)
            if every == 1:
                ordered = [rows[key] for key in itertools.product(KINDS, FAULTS) if key in rows]
                RESULTS.write_text(json.dumps({"environment": environment(), "away_seconds": seconds,
                                               "slow_seconds": slow, "rows": ordered}, indent=1) + "\n")
    raise SystemExit(wrong)


if __name__ == "__main__":
    typer.run(main)
