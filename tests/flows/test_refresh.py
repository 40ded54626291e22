"""The refresh around the pipeline; the registry's commands are stubs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRY = """\
import sys
sys.path.insert(0, sys.argv[1])
from nfk.workspace_lock import WorkspaceBusy, workspace_lock
try:
    with workspace_lock():
        print("free")
except WorkspaceBusy:
    print("busy")
"""


def workspace_is() -> str:
    return subprocess.run([sys.executable, "-c", TRY, str(ROOT)], capture_output=True, text=True,
                          check=True).stdout.strip()


@pytest.mark.usefixtures("prefect_server", "untracked")
def test_the_workspace_is_held_until_the_last_candidate_is_judged(
        workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect import task

    from flows import refresh as module

    steps: list[tuple[str, str, int]] = []

    @task
    def step(command: list[str], *, held: Collection[int]) -> str:
        steps.append((" ".join(command[2:4]), workspace_is(), len(held)))
        return "kept"

    monkeypatch.setattr(module, "run_step", step)
    module.refresh(module.RefreshOptions(push=False))
    assert steps == [("register gan", "busy", 1), ("promote nfk-gan-embedder@candidate", "busy", 1),
                     ("register vae", "busy", 1), ("promote nfk-vae-embedder@candidate", "busy", 1)]
    assert (workspace / "report.txt").exists()
    assert workspace_is() == "free"
