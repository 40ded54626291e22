from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nfk import durable, dvc_lock
from nfk.workspace_lock import LOCK_FILE, WorkspaceBusy, workspace_lock

NOBODY = 4194305  # above the largest number of a process


@pytest.fixture(autouse=True)
def rwlock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    dvc_lock.RWLOCK.parent.mkdir(parents=True)
    return dvc_lock.RWLOCK


@pytest.fixture
def another() -> Iterator[dict[str, object]]:
    """A process, as DVC writes it down."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        yield {"pid": process.pid, "cmd": "/somewhere/bin/dvc repro report"}
        process.kill()


def test_a_dvc_that_writes_here_is_named_and_the_workspace_refused(rwlock, another):
    rwlock.write_text(json.dumps({"read": {}, "write": {"/here/report": another}}))
    assert dvc_lock.other_dvc() == f"`/somewhere/bin/dvc repro report`, process {another['pid']}"
    refusal = rf"dvc repro report`, process {another['pid']}, works in this workspace; wait for it, or end it"
    with pytest.raises(WorkspaceBusy, match=refusal), workspace_lock():
        pass
    assert rwlock.exists()
    with workspace_lock(LOCK_FILE.with_name("another")):  # not the whole workspace
        pass


@pytest.mark.parametrize("left", [
    "", "{", "[]", "null", json.dumps({"read": {}, "write": {}}), json.dumps({"write": {"/here": {"cmd": "dvc"}}}),
    json.dumps({"write": {"/here": {"pid": NOBODY, "cmd": "dvc repro"}}, "read": {}}),
    json.dumps({"write": {"/here": {"pid": "seven", "cmd": "dvc repro"}}, "read": {}})],
    ids=["empty", "half", "list", "null", "nobody", "no-command", "gone", "no-number"])
def test_what_a_killed_dvc_left_is_removed(rwlock, left):
    rwlock.write_text(left)
    with workspace_lock():
        assert not rwlock.exists()


@pytest.mark.parametrize("noted_before, kept", [(-1000, True), (1000, False)])
def test_a_process_begun_after_the_note_only_has_the_number(rwlock, another, noted_before, kept):
    rwlock.write_text(json.dumps({"read": {}, "write": {"/here/report": another}}))
    noted = time.time() - noted_before
    os.utime(rwlock, (noted, noted))
    assert (dvc_lock.other_dvc() is not None) is kept
    assert rwlock.exists() is kept


@pytest.mark.parametrize("fault, lives", [(psutil.AccessDenied(1), True), (psutil.NoSuchProcess(1), False)])
def test_a_process_that_may_not_be_looked_at_is_taken_to_live(rwlock, monkeypatch, fault, lives):
    def look(pid):
        raise fault

    rwlock.write_text(json.dumps({"read": {}, "write": {"/here": {"pid": 1, "cmd": "dvc repro"}}}))
    monkeypatch.setattr(dvc_lock.psutil, "Process", look)
    assert (dvc_lock.other_dvc() is not None) is lives


def test_a_dvc_is_never_taken_for_another(rwlock):
    """Whatever the clock was set to since."""
    with subprocess.Popen([sys.executable, "-c", "input()", "dvc", "repro"], stdin=subprocess.PIPE) as process:
        rwlock.write_text(json.dumps({"write": {"/here": {"pid": process.pid, "cmd": "dvc repro"}}, "read": {}}))
        os.utime(rwlock, (0, 0))
        assert dvc_lock.other_dvc() == f"`dvc repro`, process {process.pid}"
        process.kill()


def test_one_that_reads_only_does_not_hold_the_workspace_and_keeps_its_lock(rwlock, another):
    gone = {"pid": NOBODY, "cmd": "dvc repro"}
    rwlock.write_text(json.dumps({"read": {"/here/data": [another]}, "write": {"/here/report": gone}}))
    assert dvc_lock.other_dvc() is None
    assert rwlock.exists()


def test_where_no_dvc_has_run_nothing_is_made(rwlock):
    assert dvc_lock.other_dvc() is None
    assert list(rwlock.parent.iterdir()) == []


def test_a_file_that_ends_between_two_looks_is_nobody_s(rwlock, monkeypatch):
    rwlock.write_text("{}")
    monkeypatch.setattr(durable, "hold", lambda handle: rwlock.unlink() or True)
    assert dvc_lock.other_dvc() is None


def test_it_waits_while_the_file_is_rewritten_but_not_for_ever(rwlock, monkeypatch):
    rwlock.write_text("")
    monkeypatch.setattr(dvc_lock, "_LONGEST_REWRITE", 0.05)
    with durable.lock_file(rwlock.with_name("rwlock.lock")) as guard:
        assert durable.hold(guard.fileno())
        started = time.monotonic()
        assert "which holds .dvc/tmp/rwlock.lock" in dvc_lock.other_dvc()
        assert time.monotonic() - started >= 0.05
    assert rwlock.exists()
    assert dvc_lock.other_dvc() is None and not rwlock.exists()


def test_dvc_itself_is_refused_by_the_empty_file_and_runs_once_it_is_mended(rwlock):
    """The fault as DVC has it: should it mend itself one day, this module can go."""
    Path("dvc.yaml").write_text("stages: {only: {cmd: echo done > out.txt, outs: [out.txt]}}\n")
    dvc = [sys.executable, "-m", "dvc"]
    Path(".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n")
    rwlock.touch()
    refused = subprocess.run([*dvc, "repro"], capture_output=True, text=True)
    assert refused.returncode != 0 and "corrupted" in refused.stderr
    assert dvc_lock.other_dvc() is None
    subprocess.run([*dvc, "repro", "--quiet"], check=True)
    assert Path("out.txt").read_text() == "done\n"
