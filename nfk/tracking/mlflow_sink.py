"""Sends spooled records to MLflow, as a process of its own: `python -m nfk.tracking.mlflow_sink < request`.

A process, because MLflow's faults are not ours to bound from inside: a database that does not answer is tried
for minutes, a name that does not resolve waits for the resolver. The process is killed at its deadline and
nothing is lost. MLflow's memory, warnings and prints stay out of the stage as well.

Every send may be repeated. A record's run is found by its tag `nfk.record_id` before one is created, and all
that is written carries the record's own times, so that sending again writes the same rows.
"""

from __future__ import annotations

import fcntl
import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from nfk import durable
from nfk.tracking import spool
from nfk.tracking.record import PipelineRecord, Record, StageRecord, pipeline_record_id, stage_name
from nfk.tracking.redaction import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

ATTEMPTS, FIRST_PAUSE, MOST_RETRY_SECONDS = 3, 0.3, 5.0
# the limits of MLflow's REST interface for one batch
_METRICS_A_BATCH, _PARAMS_A_BATCH, _TAGS_A_BATCH = 1000, 100, 100
_MOST_RUNS = 1000
_LONGEST_REASON = 300


class Request(TypedDict):
    uri: str
    experiment: str
    entries: list[str]


class Outcome(TypedDict):
    entry: str
    error: str | None


def main() -> None:
    """Read a Request from standard input (it may hold a password, so never from arguments), send its entries
    in order and write an Outcome a line. Ends early, silent on the rest, once the tracker is away."""
    request: Request = json.load(sys.stdin)
    answers = sys.stdout
    with redirect_stdout(sys.stderr):  # MLflow prints
        for outcome in _send_all(request):
            print(json.dumps(outcome), file=answers, flush=True)


def _send_all(request: Request) -> Iterator[Outcome]:
    from mlflow import MlflowClient

    try:
        with _first(request["uri"]):
            client = MlflowClient(tracking_uri=request["uri"])
            experiment_id = _retried(lambda: _experiment(client, request))
    except Exception as error:
        yield Outcome(entry=request["entries"][0], error=_explain(error))
        return
    for entry in sorted(request["entries"], key=_is_of_a_pipeline):
        try:
            _retried(lambda entry=entry: _send(client, experiment_id, Path(entry)))
        except Exception as error:
            yield Outcome(entry=entry, error=_explain(error))
            if not _answers(client):
                return
        else:
            yield Outcome(entry=entry, error=None)


def _is_of_a_pipeline(entry: str) -> bool:
    """Sent after all stages, whose runs get their hashes from it, whatever the clock said."""
    try:
        return isinstance(spool.read(Path(entry)), PipelineRecord)
    except (OSError, ValueError):
        return False


@contextmanager
def _first(uri: str) -> Iterator[None]:
    """One process at a time: MLflow's client makes a new SQLite store's tables, and two that do so at once
    leave a store that nobody can open. A lock beside the database, freed by the system with its holder."""
    scheme, _, path = uri.partition(":///")
    if scheme != "sqlite" or not path:
        yield
        return
    with durable.lock_file(Path(f"{path}.lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _retried(action: Any) -> Any:
    """`action()`, tried again after short pauses: a locked database, an experiment just made."""
    begun = time.monotonic()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except Exception:
            if attempt == ATTEMPTS or time.monotonic() - begun > MOST_RETRY_SECONDS:
                raise
            time.sleep(FIRST_PAUSE * 2 ** (attempt - 1))


def _answers(client: MlflowClient) -> bool:
    try:
        client.search_experiments(max_results=1)
    except Exception:
        return False
    return True


def _experiment(client: MlflowClient, request: Request) -> str:
    found = client.get_experiment_by_name(request["experiment"])
    if found is not None:
        return found.experiment_id
    return client.create_experiment(request["experiment"], _beside_the_database(request))


def _beside_the_database(request: Request) -> str | None:
    """Where a SQLite store's figures go: MLflow would take the folder of whichever process is first, such as a
    sweep's workspace, which may be removed. A server knows its own place."""
    scheme, _, path = request["uri"].partition(":///")
    if scheme != "sqlite" or not path:
        return None
    return str(Path(path).resolve().parent / "mlruns" / request["experiment"])


def _send(client: MlflowClient, experiment_id: str, entry: Path) -> None:
    record = spool.read(entry)
    match record:
        case StageRecord():
            _send_stage(client, experiment_id, record, entry)
        case PipelineRecord():
            _send_pipeline(client, experiment_id, record, entry)


def _send_stage(client: MlflowClient, experiment_id: str, record: StageRecord, entry: Path) -> None:
    if record.pipeline_run is None:
        parent, attempts = None, _runs(client, experiment_id, "nfk.record_id", record.id)
    else:
        runs = _runs(client, experiment_id, "nfk.pipeline_run", record.pipeline_run)
        parent = _parent(client, experiment_id, record, runs)
        attempts = [run for run in runs if _stage_of(run) == record.name]
    started = _milliseconds(record.started)
    same = [run for run in attempts if run.data.tags.get("nfk.record_id") == record.id]
    if not same and any(run.info.start_time > started for run in attempts):
        return  # a later attempt of this stage is there already
    run_id = same[0].info.run_id if same else _create(client, experiment_id, record, parent)
    _fill(client, run_id, record, entry)
    for other in attempts:
        if other.info.run_id != run_id:
            client.delete_run(other.info.run_id)


def _send_pipeline(client: MlflowClient, experiment_id: str, record: PipelineRecord, entry: Path) -> None:
    runs = _runs(client, experiment_id, "nfk.pipeline_run", record.pipeline_run)
    parent = _parent(client, experiment_id, record, runs)
    for run in runs:
        tags = record.stage_tags.get(_stage_of(run) or "", {})
        if tags:
            _tag(client, run.info.run_id, tags)
    _fill(client, parent, record, entry)


def _parent(client: MlflowClient, experiment_id: str, record: Record, runs: list[Run]) -> str:
    """The run id of the record's pipeline run, created where no stage of it was logged before."""
    from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT

    record_id = pipeline_record_id(str(record.pipeline_run))
    for run in runs:
        if run.data.tags.get("nfk.record_id") == record_id:
            return run.info.run_id
    commit = {MLFLOW_GIT_COMMIT: record.tags["git.commit"]} if "git.commit" in record.tags else {}
    return client.create_run(
        experiment_id, start_time=_milliseconds(record.started), run_name=f"pipeline {record.pipeline_run}",
        tags={"nfk.record_id": record_id, "nfk.pipeline_run": str(record.pipeline_run)} | commit,
    ).info.run_id


def _create(client: MlflowClient, experiment_id: str, record: StageRecord, parent: str | None) -> str:
    from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_PARENT_RUN_ID, MLFLOW_SOURCE_NAME

    tags = {
        "nfk.record_id": record.id,
        "nfk.pipeline_run": record.pipeline_run,
        "nfk.stage": record.stage,
        "nfk.family": record.family,
        MLFLOW_PARENT_RUN_ID: parent,
        MLFLOW_SOURCE_NAME: " ".join(("nfk", record.stage, record.family or "")).rstrip(),
        MLFLOW_GIT_COMMIT: record.tags.get("git.commit"),
    }
    return client.create_run(
        experiment_id, start_time=_milliseconds(record.started), run_name=record.name,
        tags={key: value for key, value in tags.items() if value is not None},
    ).info.run_id


def _fill(client: MlflowClient, run_id: str, record: Record, entry: Path) -> None:
    """Write the record's content to its run and end the run."""
    from mlflow.entities import Metric, Param

    ended = _milliseconds(record.ended)
    if isinstance(record, StageRecord):
        params = [Param(_key(key), value) for key, value in record.params.items()]
        for batch in _batches(params, _PARAMS_A_BATCH):
            client.log_batch(run_id, params=batch)
        metrics = [Metric(_key(key), value, ended, 0) for key, value in record.metrics.items()]
        metrics += [Metric(_key(key), value, ended, step)
                    for key, values in record.series.items() for step, value in enumerate(values)]
        for batch in _batches(metrics, _METRICS_A_BATCH):
            client.log_batch(run_id, metrics=batch)
    _tag(client, run_id, record.tags)
    for folder, artifact_path in (("figures", "figures"), ("artifacts", None)):
        if (entry / folder).is_dir() and any((entry / folder).iterdir()):
            client.log_artifacts(run_id, str(entry / folder), artifact_path)
    client.set_terminated(run_id, record.status, ended)


def _tag(client: MlflowClient, run_id: str, tags: dict[str, str]) -> None:
    from mlflow.entities import RunTag

    for batch in _batches([RunTag(_key(key), value) for key, value in tags.items()], _TAGS_A_BATCH):
        client.log_batch(run_id, tags=batch)


def _runs(client: MlflowClient, experiment_id: str, tag: str, value: str) -> list[Run]:
    return list(client.search_runs([experiment_id], f"tags.`{tag}` = '{value}'", max_results=_MOST_RUNS))


def _stage_of(run: Run) -> str | None:
    tags = run.data.tags
    return stage_name(tags["nfk.stage"], tags.get("nfk.family")) if "nfk.stage" in tags else None


def _key(name: str) -> str:
    """`name` with what MLflow refuses in a key replaced; an out of DVC may be called anything."""
    return re.sub(r"[^\w.\- :/]", "_", name)[:250]


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[start:start + size] for start in range(0, len(items), size))


def _explain(error: BaseException) -> str:
    """The fault that started it, in one line: `ConnectionRefusedError: [Errno 111] Connection refused`."""
    while (earlier := error.__cause__ or (None if error.__suppress_context__ else error.__context__)):
        error = earlier
    return redact(f"{type(error).__name__}: {' '.join(str(error).split())}"[:_LONGEST_REASON])


if __name__ == "__main__":
    main()
