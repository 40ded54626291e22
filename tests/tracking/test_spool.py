from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nfk.tracking import pending, spool
from nfk.tracking.record import PipelineRecord, StageRecord

Make = Callable[..., StageRecord]
pytestmark = pytest.mark.usefixtures("workspace")


def test_entries_are_read_back_in_the_order_made(record: Make) -> None:
    made = [record(stage=name) for name in ("data", "svd", "embed")]
    for item in made:
        spool.add(item)
    assert [spool.read(entry).name for entry in spool.entries()] == [item.name for item in made]
    assert pending() == 3


def test_files_are_copies(record: Make, tmp_path: Path) -> None:
    figure = tmp_path / "spectrum.png"
    figure.write_bytes(b"first")
    entry = spool.add(record(figures=(figure,)))
    figure.write_bytes(b"second")
    assert (entry / "figures" / "spectrum.png").read_bytes() == b"first"


def test_files_of_one_name_are_all_kept(record: Make, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "grid.png").write_text(name)
    entry = spool.add(record(figures=(tmp_path / "a/grid.png", tmp_path / "b/grid.png")))
    assert {path.name: path.read_text() for path in (entry / "figures").iterdir()} == {
        "grid.png": "a", "grid-2.png": "b"}


def test_a_crash_leaves_no_half_entry(record: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = tmp_path / "f.png"
    figure.touch()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nfk.durable.copy", full)
    with pytest.raises(OSError, match="No space left"):
        spool.add(record(figures=(figure,)))
    assert list(spool.SPOOL.iterdir()) == []


def test_what_a_killed_process_left_is_no_entry_and_swept_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    left = spool.SPOOL / ".unfinished-1-abc"
    left.mkdir(parents=True)
    with spool.sending(wait=0.0):
        assert left.exists() and pending() == 0  # it may be another process at work
    monkeypatch.setattr(spool, "_STALE_SECONDS", -1.0)
    with spool.sending(wait=0.0):
        assert not left.exists()


def test_an_entry_of_the_same_id_is_replaced() -> None:
    spool.add(PipelineRecord(pipeline_run="r", status="FAILED"))
    spool.add(PipelineRecord(pipeline_run="other"))
    spool.add(PipelineRecord(pipeline_run="r", status="FINISHED"))
    assert [(spool.read(entry).pipeline_run, spool.read(entry).status) for entry in spool.entries()] == [
        ("other", "FINISHED"), ("r", "FINISHED")]


def test_one_sender_at_a_time() -> None:
    spool.SPOOL.mkdir(parents=True)
    with open(spool.SPOOL / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(spool.SpoolBusy, match="another process is sending"), spool.sending(wait=0.0):
            pass
    with spool.sending(wait=0.0):
        pass


def test_removing_twice_is_removing(record: Make) -> None:
    entry = spool.add(record())
    spool.remove(entry)
    spool.remove(entry)
    assert pending() == 0
