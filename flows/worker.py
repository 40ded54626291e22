"""`nfk worker`: Prefect's worker of this workspace, which also takes up runs that were cut off.

Prefect leaves a run whose process was killed, by hand, by the system or with its machine, as Running or Crashed for
ever. Here it is scheduled again under its own id: DVC knows the stages it finished, the unfinished one goes on from its
last whole block, and MLflow gets one run for all tries.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import socket
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import httpx
import psutil

from flows.process_group import end_processes

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

POOL = "nfk-process"
MOST_TRIES = 3  # a run that brings its machine down is not started for ever
_EVERY_SECONDS = 15.0
_SUBMITTED = timedelta(seconds=120)  # from the worker's word to the run's process
_RUN_ID = "PREFECT__FLOW_RUN_ID"  # in the environment of a run's process and all it starts


class WorkerError(ValueError):
    """The worker does not start; the message is one line."""


class Processes(NamedTuple):
    """The processes of one flow run here: the one that runs the flow, and what it started."""

    engines: list[psutil.Process]
    others: list[psutil.Process]


def work() -> None:
    """Run deployments in this folder until told to end, one worker a workspace; cut-off runs are looked for at the
    start and every 15 s. Ends with Prefect's exit status once the server was away for longer than it bears."""
    if not os.environ.get("PREFECT_API_URL"):
        raise WorkerError("PREFECT_API_URL is not set: a worker serves a Prefect server; start one (infra/local.sh up) "
                          "and set it")
    threading.Thread(target=_watch, name="take-up", daemon=True).start()
    sys.argv = ["prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", worker_name()]
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)


def worker_name() -> str:
    """The same after a restart, so that it takes the place of the one that was killed."""
    return f"nfk-{socket.gethostname()}"


def take_up(client: SyncPrefectClient) -> list[str]:
    """Schedule again the newest run of each deployment of the pool whose process is gone; their names.

    What such a run left behind, a stage that outlived it, is ended first: it holds the workspace. Nothing is done
    while another host's worker serves the pool, since its processes are not seen from here.
    """
    from prefect.states import AwaitingRetry

    if _another_host_works(client):
        return []
    taken = []
    for run in _newest_runs(client):
        if run.state is None or run.run_count > MOST_TRIES - 1 or not _may_be_cut_off(run):
            continue
        found = processes_of(str(run.id))
        if found.engines or client.read_flow_run(run.id).state_id != run.state_id:  # it ended as we looked
            continue
        end_processes(found.others)
        client.set_flow_run_state(run.id, AwaitingRetry(
            message=f"its process was gone while it was {run.state.name}; try {run.run_count + 1} of {MOST_TRIES}"))
        taken.append(run.name)
    return taken


def processes_of(run_id: str) -> Processes:
    """This host's processes of the flow run, those that may be looked at."""
    found = Processes([], [])
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(_RUN_ID) == run_id:
                (found.engines if "prefect.engine" in process.cmdline() else found.others).append(process)
    return found


def _may_be_cut_off(run: FlowRun) -> bool:
    state = run.state
    if state is None:
        return False
    return state.is_running() or state.is_crashed() or (
        state.is_pending() and datetime.now(UTC) - state.timestamp > _SUBMITTED)


def _newest_runs(client: SyncPrefectClient) -> list[FlowRun]:
    """Of each deployment of the pool, the run that was started last."""
    from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
    from prefect.client.schemas.sorting import FlowRunSort

    states = ("PENDING", "RUNNING", "CRASHED", "COMPLETED", "FAILED")
    runs = client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": states}}}),
        work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [POOL]}}),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=100)
    newest = {run.deployment_id: run for run in reversed(runs) if run.deployment_id is not None}
    return list(newest.values())


def _another_host_works(client: SyncPrefectClient) -> bool:
    workers = client.read_workers_for_work_pool(POOL)
    return any(worker.status == "ONLINE" and worker.name != worker_name() for worker in workers)


def _watch() -> None:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException

    while True:
        try:
            with get_client(sync_client=True) as client:
                for name in take_up(client):
                    print(f"run {name} was cut off and is scheduled again", file=sys.stderr, flush=True)
        except (httpx.HTTPError, PrefectException, RuntimeError):  # the server is away: Prefect's worker says so itself
            pass
        time.sleep(_EVERY_SECONDS)
