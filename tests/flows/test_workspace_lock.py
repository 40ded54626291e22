from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nfk.workspace_lock import WorkspaceBusy, cut_off, stage_lock, workspace_lock

HOLD = """\
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from nfk.workspace_lock import workspace_lock
with workspace_lock(Path("lock")):
    print("held", flush=True)
    time.sleep(300)
"""
ROOT = Path(__file__).parents[2]
LOCK = Path("lock")


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_second_is_refused_naming_the_first_and_a_killed_holder_frees_it() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(ROOT)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        refusal = rf"already runs .* process {holder.pid} \(lock\)"
        with pytest.raises(WorkspaceBusy, match=refusal), workspace_lock(LOCK):
            pass
        holder.kill()
    with workspace_lock(LOCK):
        assert LOCK.read_text() == str(os.getpid())


def test_it_is_free_after_use_and_after_a_fault() -> None:
    with pytest.raises(KeyError), workspace_lock(LOCK):
        raise KeyError
    with workspace_lock(LOCK):
        pass


def test_a_child_that_holds_it_outlives_its_parent() -> None:
    """As a stage whose flow was killed: the workspace stays refused until the stage has ended."""
    with workspace_lock(LOCK) as descriptor:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE,
                                 pass_fds=[descriptor])
    LOCK.write_text("4194305")  # above the largest pid: the parent is gone
    refusal = "a stage of the pipeline that was process 4194305 still runs"
    with pytest.raises(WorkspaceBusy, match=refusal), workspace_lock(LOCK):
        pass
    child.communicate(b"\n")
    with workspace_lock(LOCK):
        pass


def test_it_tells_a_stage_that_was_killed_from_one_that_ended() -> None:
    hold = HOLD.replace("workspace_lock(", "stage_lock(").replace("import workspace_lock", "import stage_lock")
    for end in ("kill", "terminate"):  # Python dies of both where it sits
        with subprocess.Popen([sys.executable, "-c", hold, str(ROOT)], stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
            assert not cut_off(LOCK)
            getattr(holder, end)()
        assert cut_off(LOCK) and cut_off(LOCK)
        with pytest.raises(KeyError), stage_lock(LOCK):
            assert not cut_off(LOCK)
            raise KeyError  # and says so itself
        assert not cut_off(LOCK)


def test_inside_the_holder_s_block_it_is_the_holder_s_own_and_stays_held_after() -> None:
    with workspace_lock(LOCK) as outer:
        with workspace_lock(LOCK) as inner:
            assert inner == outer
        child = subprocess.run([sys.executable, "-c", HOLD, str(ROOT)], capture_output=True, text=True)
        assert "WorkspaceBusy" in child.stderr
