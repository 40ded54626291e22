"""Prefect, the object store and PostgreSQL, alive but ailing in mid-run: slow, failing for a minute, losing answers.

    python -m tests.faults.ailing                   all of it, into tests/faults/results/ailing.json
    python -m tests.faults.ailing --server s3       before one of them; --fault slow: one kind, nothing written

The topology and what survived means are those of `tests.faults.outages`; here a proxy stands before each of the three:
between the worker with its runs and Prefect, between DVC, MLflow and the store, between Prefect, MLflow and PostgreSQL.

slow      for a minute each answer of Prefect and of the store takes 5 s. A call to MLflow or Prefect is many questions
          to PostgreSQL, so each answer of that one takes 0.25 s, with which such a call takes seconds (`database_call`)
failing   for a minute each call is answered 500 and reaches nobody; PostgreSQL refuses connections, those there break
lost      the write is done, its answer is not heard: of Prefect and of the store, for each write of the run, once; of
          PostgreSQL, for each third commit that wrote something, and the connection ends with it. Websockets, by which
          Prefect's clients hear and tell events, pass as they are, and are refused while it fails
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from tests.faults import database_proxy, outages
from tests.faults import proxy as proxies
from tests.faults.database_proxy import DatabaseProxy
from tests.faults.outages import Lost, Topology
from tests.faults.proxy import Proxy
from tests.faults.tally import Tally

RESULTS = Path(__file__).parent / "results" / "ailing.json"
STAGES = ("data", "evaluate@classifier")
"""run anew in each run, before it registers and pushes; the others are looked at and found to be up to date"""
MOMENTS = {("prefect", "slow"): ("evaluate", "register"), ("prefect", "failing"): ("evaluate", "register", "push"),
           ("s3", "slow"): ("register", "push"), ("s3", "failing"): ("evaluate", "register", "push"),
           ("postgres", "slow"): ("evaluate", "register"), ("postgres", "failing"): ("evaluate", "register")}
"""when the minute begins"""
SERVERS = {"prefect": "Prefect", "s3": "the object store", "postgres": "PostgreSQL"}
FAULTS = ("lost", "failing", "slow")
_MINUTE, _SLOW_SECONDS, _DATABASE_SECONDS, _LOSE_EVERY = 60.0, 5.0, 0.25, 3


class Proxies(NamedTuple):
    prefect: Proxy
    s3: Proxy
    postgres: DatabaseProxy

    def changed(self, script: str) -> str:
        """`infra/local.sh` with the servers where the proxies look for them, and the proxies in their addresses."""
        for before, after, times in (
                ("database=$(free_port)", f"database={self.postgres.upstream}", 1),
                (" s3=$(free_port)", f" s3={self.s3.upstream}", 1),
                (" prefect=$(free_port)", f" prefect={self.prefect.upstream}", 1),
                ("ENDPOINT_URL=http://127.0.0.1:$s3", f"ENDPOINT_URL={self.s3.address}", 2),
                ("PREFECT_API_URL=http://127.0.0.1:$prefect/", f"PREFECT_API_URL={self.prefect.address}/", 1),
                ("@127.0.0.1:$NFK_DATABASE_PORT/", f"@127.0.0.1:{self.postgres.port}/", 3)):
            if script.count(before) != times:
                raise RuntimeError(f"infra/local.sh has {before!r} {script.count(before)} times, not {times}")
            script = script.replace(before, after)
        return script

    def direct(self, topology: Topology) -> None:
        """What the tests themselves ask does not pass the proxies."""
        store = f"http://127.0.0.1:{self.s3.upstream}"
        topology.workspace.environment |= {
            "PREFECT_API_URL": f"http://127.0.0.1:{self.prefect.upstream}/api",
            "AWS_ENDPOINT_URL": store, "MLFLOW_S3_ENDPOINT_URL": store}


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in held]


def ail(through: Proxy | DatabaseProxy, fault: str) -> None:
    """From now on."""
    match through, fault:
        case Proxy(), "slow":
            through.reset(seconds=_SLOW_SECONDS)
        case Proxy(), "failing":
            through.reset(failing=True)
        case Proxy(), "lost":
            through.reset(lose_each=True)
        case DatabaseProxy(), "slow":
            through.reset(seconds=_DATABASE_SECONDS)
        case DatabaseProxy(), "failing":
            through.refuse()
        case DatabaseProxy(), "lost":
            through.reset(lose_every=_LOSE_EVERY)


def mend(through: Proxy | DatabaseProxy) -> int:
    """Without a fault again; how many answers were lost."""
    lost = through.lost if isinstance(through, DatabaseProxy) else len(through.lost)
    through.reset()
    if through._server is None:
        through.listen()
    return lost


def for_a_minute(topology: Topology, through: Proxy | DatabaseProxy, fault: str, moment: str,
                 wanted: Mapping[str, str]) -> str:
    """How a run came through that minute; Lost where it did not."""
    topology.forget()
    run_id = topology.start(always=STAGES)
    outages.at_moment(topology, run_id, moment)
    ail(through, fault)
    time.sleep(_MINUTE)
    mend(through)
    topology.up()  # who ended meanwhile, as the page on operations says
    return outages.came_through(topology, run_id, wanted, STAGES)


def with_answers_lost(topology: Topology, through: Proxy | DatabaseProxy, wanted: Mapping[str, str]) -> tuple[str, int]:
    """How a run came through all of whose writes lost their answers, and how many did; Prefect has each artifact
    once, and no run that nobody starts."""
    topology.forget()
    before = artifacts(topology)
    run_id = topology.start(always=STAGES)
    ail(through, "lost")
    try:
        outages.ended(topology, run_id)
    finally:
        lost = mend(through)
    topology.up()
    if not lost:
        raise Lost("no answer was lost")
    how = outages.came_through(topology, run_id, wanted, STAGES)
    if twice := sorted(key for (key, _), count in (artifacts(topology) - before).items() if count > 1):
        raise Lost(f"made twice in Prefect: {twice}")
    states = {"any_": ["SCHEDULED", "PENDING", "RUNNING"]}
    if waiting := topology.ask("flow_runs/filter", flow_runs={"state": {"type": states}}):
        raise Lost(f"made in Prefect and never started: {[run['name'] for run in waiting]}")
    return how, lost


def artifacts(topology: Topology) -> Counter[tuple[str, str]]:
    """What runs show in Prefect, by key and run."""
    shown = topology.ask("artifacts/filter", sort="CREATED_DESC", limit=200)
    return Counter((one["key"], one["flow_run_id"]) for one in shown)


def told(topology: Topology, what: str, trial: Callable[[], str]) -> str | None:
    """Why it was not survived, printed with what can be known of how it went."""
    begun, before, workers = time.monotonic(), len(topology.log("worker").encode()), _worker(topology)
    try:
        how, why = trial(), None
    except Lost as lost:
        how, why = "", f"{what}: {lost}"
        print(topology.log("worker", before)[-8000:], flush=True)
    restarted = "" if _worker(topology) == workers else ", the worker ended and was started again"
    print(f"{what}: {why or 'survived'}; {how}{restarted}; {time.monotonic() - begun:.0f} s", flush=True)
    return why


def _worker(topology: Topology) -> str:
    return (topology.folder / "worker.pid").read_text()


def database_call(topology: Topology, through: DatabaseProxy) -> dict[str, float]:
    """Seconds that one call takes while PostgreSQL is slow, on connections that are there."""
    import requests

    environment = topology.workspace.environment
    found = {}
    ail(through, "slow")
    for name, method, address, body in (
            ("mlflow", "GET", f"{environment['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/get-by-name"
             "?experiment_name=nfk", None),
            ("prefect", "POST", f"{environment['PREFECT_API_URL']}/flow_runs/filter", {"limit": 1})):
        for _ in range(2):
            begun = time.monotonic()
            requests.request(method, address, json=body, timeout=120, auth=(
                environment["MLFLOW_TRACKING_USERNAME"], environment["MLFLOW_TRACKING_PASSWORD"])).raise_for_status()
        found[name] = round(time.monotonic() - begun, 1)
    mend(through)
    return found


def main(
    server: Annotated[str, typer.Option(help=f"only before this one: {', '.join(SERVERS)}")] = "",
    fault: Annotated[str, typer.Option(help=f"only this one, nothing written: {', '.join(FAULTS)}")] = "",
    moment: Annotated[str, typer.Option(help="only at this moment, nothing written: one of tests.faults.outages")] = "",
) -> None:
    ports = free_ports(3)
    with (proxies.before(ports[0]) as prefect, proxies.before(ports[1]) as s3,
          database_proxy.before(ports[2]) as postgres):
        through = Proxies(prefect, s3, postgres)
        with outages.topologies(through.changed) as (topology, wanted):
            through.direct(topology)
            tally = Tally(RESULTS, keep=not (fault or moment), away_seconds=_MINUTE, slow_seconds=_SLOW_SECONDS,
                          database_seconds=_DATABASE_SECONDS, database_call=database_call(topology, postgres))
            for one in [server] if server else SERVERS:
                proxy = getattr(through, one)
                for kind in [fault] if fault else FAULTS:
                    tried(tally, topology, proxy, one, kind, wanted, moment)
    raise SystemExit(1 if tally.wrong else 0)


def tried(tally: Tally, topology: Topology, through: Proxy | DatabaseProxy, server: str, fault: str,
          wanted: Mapping[str, str], moment: str = "") -> None:
    """One kind of fault before one server, into the tally."""
    name = SERVERS[server]
    if fault == "lost":
        count = 1

        def lost_answers() -> str:
            nonlocal count
            how, count = with_answers_lost(topology, through, wanted)
            return f"{count} answers lost; {how}"

        why = told(topology, f"{name} loses answers", lost_answers)
        what = "each third commit that wrote something" if server == "postgres" else "each write, once"
        return tally.tell(f"{name} loses in mid-run the answer to {what}", [why] * count)
    seconds = _DATABASE_SECONDS if server == "postgres" else _SLOW_SECONDS
    says = f"takes {seconds:g} s for each answer" if fault == "slow" else (
        "refuses connections" if server == "postgres" else "answers 500")
    return tally.tell(f"{name} {says} for {_MINUTE:g} s in mid-run", [
        told(topology, f"{name} {says} from {when} on",
             lambda when=when: for_a_minute(topology, through, fault, when, wanted))
        for when in ([moment] if moment else MOMENTS[server, fault])])


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
