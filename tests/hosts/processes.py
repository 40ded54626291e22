"""Processes of `nfk ... --distributed` on loopback, started and ended by their own ids."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def started(arguments: list[str], count: int, folder: Path, **environment: str) -> Iterator[list[subprocess.Popen]]:
    """`nfk ARGUMENTS --distributed` as `count` processes; those left at the end are killed."""
    command = [sys.executable, "-m", "nfk", *arguments, "--distributed"]
    shared = {"NFK_COORDINATOR": f"127.0.0.1:{free_port()}", "NFK_PROCESSES": str(count), **environment}
    running: list[subprocess.Popen] = []
    try:
        for index in range(count):
            running.append(subprocess.Popen(
                command, cwd=folder, env=os.environ | shared | {"NFK_PROCESS": str(index)}, text=True,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
        yield running
    finally:
        for process in running:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate()


def run(arguments: list[str], count: int, folder: Path, **environment: str) -> None:
    """To the end, all with 0."""
    with started(arguments, count, folder, **environment) as processes:
        said = [process.communicate(timeout=900)[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * count, said


def wait_for(there: Callable[[], object], processes: list[subprocess.Popen], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        ended = [process.communicate()[1] for process in processes if process.poll() is not None]
        assert not ended, ended
        assert time.monotonic() < deadline
        time.sleep(0.005)
