"""What a command prints reaches the flow's log line by line, without secrets; no process of it is left."""

from __future__ import annotations

import sys
import time

import psutil
import pytest

from flows.process_group import run_streamed


def test_lines_are_told_without_secrets_and_so_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct-horse")
    said: list[str] = []
    code = ("import os; print('at https://me:hunter22@host/x'); print(); "
            "print('with', os.environ['MLFLOW_TRACKING_PASSWORD'])")
    ended = run_streamed([sys.executable, "-c", code], said.append, seconds=60)
    assert said == ["at https://***@host/x", "with ***"]
    assert (ended.status, ended.timed_out, ended.last_line) == (0, False, "with ***")


@pytest.mark.parametrize("stopped", ["the leader", "both"])
def test_a_command_that_is_stopped_is_ended_with_its_child_once_its_time_is_over(stopped: str) -> None:
    """SIGTERM does not reach a stopped process; SIGKILL does."""
    code = ("import os, signal, subprocess, sys, time\n"
            "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\n"
            "print(child.pid, flush=True)\n"
            f"os.{'kill(os.getpid()' if stopped == 'the leader' else 'killpg(0'}, signal.SIGSTOP)\n")
    said: list[str] = []
    begun = time.monotonic()
    ended = run_streamed([sys.executable, "-c", code], said.append, seconds=2)
    assert ended.timed_out and time.monotonic() - begun < 60
    assert not psutil.pid_exists(int(said[0]))
