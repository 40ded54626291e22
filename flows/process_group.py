"""A command run as a process group of its own, its lines in the flow run's log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from nfk.tracking import redact

TERMINATION_SECONDS = 5.0  # from the request to end to the kill


class Ended(NamedTuple):
    status: int
    timed_out: bool
    last_line: str


def run_streamed(
    command: Sequence[str], say: Callable[[str], None], *, seconds: float, environment: Mapping[str, str] | None = None,
    held: Collection[int] = (), folder: Path = Path(),
) -> Ended:
    """Run `command` in `folder`, each line it prints to `say` with secrets redacted, for `seconds` at most.

    `held` are file descriptors it keeps open, such as the workspace lock's. However this ends, by success, error,
    time-out or cancellation, no process of the command is left.
    """
    last = ""
    with _process_group(list(command), seconds, stage_environment(environment or {}), held,
                        folder) as (process, timed_out):
        for line in process.stdout or ():
            if line.strip():
                last = redact(line.rstrip())
                say(last)
        process.wait()
    return Ended(process.returncode, timed_out.is_set(), last)


def stage_environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `more`, in which stages find `nfk` and speak line by line."""
    search_path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    return {**os.environ, "PATH": search_path, "PYTHONUNBUFFERED": "1", **more}


def end_processes(processes: Sequence[psutil.Process]) -> None:
    """Ask processes that this one did not start to end, then kill what is left of them."""
    for action in ("terminate", "kill"):
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                getattr(process, action)()
        if not psutil.wait_procs(processes, timeout=TERMINATION_SECONDS)[1]:
            return


@contextmanager
def _process_group(
    command: list[str], seconds: float, environment: dict[str, str], held: Collection[int], folder: Path,
) -> Iterator[tuple[subprocess.Popen[str], threading.Event]]:
    """A process that leads a group of its own, the whole of which ends with it, or after `seconds`, or when
    the block is left. The event tells the second from the others."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", env=environment, start_new_session=True, pass_fds=tuple(held),
        cwd=folder)
    timed_out = threading.Event()

    def watch() -> None:
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            timed_out.set()
        _end_group(process)  # what the leader left behind would keep its output open

    watchdog = threading.Thread(target=watch, name="stage-watchdog", daemon=True)
    watchdog.start()
    try:
        yield process, timed_out
    finally:
        _end_group(process)
        watchdog.join()
        if process.stdout is not None:
            process.stdout.close()


def _end_group(process: subprocess.Popen[str]) -> None:
    """Ask the process's group to end, then kill what is left of it."""
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + TERMINATION_SECONDS
        try:
            os.killpg(process.pid, signal_number)
            while time.monotonic() < deadline:
                process.poll()  # a leader not waited for would count as alive
                os.killpg(process.pid, 0)
                time.sleep(0.05)
        except (ProcessLookupError, PermissionError):  # none left; on macOS, none but zombies
            return
