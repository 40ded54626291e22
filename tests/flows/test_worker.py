"""Which runs the worker takes up, against a real Prefect server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psutil
import pytest

from flows import worker

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def client(prefect_server: str) -> Iterator[Any]:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as opened:
        yield opened


@pytest.fixture
def new_run(client: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes a run of a deployment of its own, in a pool of this test, in the state given."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.flows import flow

    pool = f"pool-{os.urandom(4).hex()}"
    monkeypatch.setattr(worker, "POOL", pool)
    client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
    deployments: list[UUID] = []

    @flow(name=pool)
    def nothing() -> None: ...

    def make(state: Any, *, deployment: UUID | None = None) -> Any:
        if deployment is None:
            deployment = client.create_deployment(client.create_flow(nothing), f"d{len(deployments)}",
                                                  work_pool_name=pool)
            deployments.append(deployment)
        run = client.create_flow_run_from_deployment(deployment)
        client.set_flow_run_state(run.id, state, force=True)
        return client.read_flow_run(run.id)

    yield make
    for deployment in deployments:
        client.delete_deployment(deployment)


def engine(run_id: UUID, *arguments: str) -> subprocess.Popen[bytes]:
    """A process that looks like the one of a flow run, or with no argument like a stage it started."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)", *arguments],
                            env=os.environ | {"PREFECT__FLOW_RUN_ID": str(run_id)})


@pytest.mark.parametrize("name", ["Running", "Crashed"])
def test_a_run_without_a_process_is_scheduled_again_and_what_it_left_is_ended(
        client: Any, new_run: Any, name: str) -> None:
    from prefect import states

    run = new_run(getattr(states, name)())
    stage = engine(run.id)
    try:
        assert worker.take_up(client) == [run.name]
        assert not psutil.pid_exists(stage.pid)
    finally:
        stage.kill()
        stage.wait()
    state = client.read_flow_run(run.id).state
    assert state.name == "AwaitingRetry"
    assert state.message == f"its process was gone while it was {name}; try {run.run_count + 1} of 3"
    assert worker.take_up(client) == []


def test_a_run_whose_process_lives_is_left_alone(client: Any, new_run: Any) -> None:
    from prefect import states

    run = new_run(states.Running())
    process = engine(run.id, "prefect.engine")
    try:
        assert worker.take_up(client) == []
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    assert worker.take_up(client) == [run.name]


def test_only_the_newest_run_is_taken_up_and_a_failure_is_final(client: Any, new_run: Any) -> None:
    from prefect import states

    old = new_run(states.Crashed())
    new_run(states.Completed(), deployment=old.deployment_id)
    new_run(states.Failed())
    new_run(states.Pending())  # just submitted: its process is on its way
    assert worker.take_up(client) == []


def test_a_run_is_not_tried_for_ever(client: Any, new_run: Any) -> None:
    from prefect import states

    run = new_run(states.Running())
    for _ in range(worker.MOST_TRIES - 1):
        assert worker.take_up(client) == [run.name]
        client.set_flow_run_state(run.id, states.Running(), force=True)
    assert client.read_flow_run(run.id).run_count == worker.MOST_TRIES
    assert worker.take_up(client) == []


def test_while_another_host_serves_the_pool_nothing_is_done(client: Any, new_run: Any) -> None:
    from prefect import states

    new_run(states.Running())
    client.send_worker_heartbeat(worker.POOL, "elsewhere", heartbeat_interval_seconds=30)
    assert worker.take_up(client) == []


def test_without_a_server_the_worker_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pytest.raises(worker.WorkerError, match="PREFECT_API_URL is not set"):
        worker.work()
