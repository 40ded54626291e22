"""SIGSTOP for longer than the watchdog: a process that hangs is ended with all it started, and nothing is lost.

    python -m tests.faults.stops                 into tests/faults/results/stops.json

A small pipeline under `flows.process_group.run_streamed`, which runs every stage of a flow. At a random moment the
process group, dvc alone, or the stage alone is stopped for good; 5 s later its time is over. Survived means: that is
told, no process is left, and the same command run again ends on the undisturbed run's digests.
"""

from __future__ import annotations

import random
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import psutil
import typer

from flows.process_group import TERMINATION_SECONDS, run_streamed
from tests.faults.kills import KINDS, STORES, Workspace
from tests.faults.tally import Tally

RESULTS = Path(__file__).parent / "results" / "stops.json"
_STOPPED_SECONDS = 5.0


def stop(workspace: Workspace, kind: str) -> None:
    """All of it; its leader, which is dvc; or what dvc has started, and dvc where that is nothing yet."""
    found = workspace.processes()
    leader = [process for process in found if "repro" in process.cmdline()]
    of = {"group": found, "dvc": leader, "stage": [each for each in found if each not in leader] or leader}
    for process in of[kind]:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGSTOP)


def one_stop(workspace: Workspace, kind: str, moment: float, wanted: dict[str, str]) -> str | None:
    """Why it was not survived."""
    workspace.clear()
    stopping = threading.Timer(moment, stop, (workspace, kind))
    stopping.start()
    command, lines, begun = [sys.executable, "-m", "dvc", "repro", "embed@classifier"], [], time.monotonic()
    seconds = moment + _STOPPED_SECONDS
    try:
        ended = run_streamed(command, lines.append, seconds=seconds, environment=workspace.environment,
                             folder=workspace.folder)
    finally:
        stopping.join()
    over = time.monotonic() - begun - seconds
    if not ended.timed_out:
        return f"{kind}: not noticed, ended with {ended.status}: {ended.last_line}"
    if over > 2 * TERMINATION_SECONDS + 5:
        return f"{kind}: ended {over:.0f} s late"
    if left := workspace.processes():
        return f"{kind}: left running: {[' '.join(each.cmdline()[-3:]) for each in left]}"
    again = run_streamed(command, lines.append, seconds=900, environment=workspace.environment,
                         folder=workspace.folder)
    if again.status != 0:
        return f"{kind}: the next run ended with {again.status}: {again.last_line}"
    found = workspace.digests()
    wrong = [name for name in STORES if found[name] != wanted[name]]
    return f"{kind}: another digest: {', '.join(wrong)}" if wrong else None


def main(tries: Annotated[int, typer.Option(min=1, help="of each kind")] = 5) -> None:
    draw = random.Random(0)
    with tempfile.TemporaryDirectory(prefix="nfk-stops-") as folder:
        workspace = Workspace(Path(folder) / "nfk")
        begun = time.monotonic()
        if workspace.start("embed@classifier").wait() != 0:
            raise RuntimeError(f"the undisturbed run failed: {workspace.log()}")
        whole, wanted = time.monotonic() - begun, workspace.digests()
        tally = Tally(RESULTS)
        for kind in KINDS:
            tally.tell(f"SIGSTOP for longer than the watchdog: {kind}", [
                one_stop(workspace, kind, draw.uniform(0, 0.8 * whole), wanted) for _ in range(tries)])
    raise SystemExit(bool(tally.wrong))


if __name__ == "__main__":
    typer.run(main)
