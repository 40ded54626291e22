from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
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


def test_without_a_spool_nothing_waits() -> None:
    assert spool.entries() == []
    assert not spool.sent_lately(seconds=60.0, share=0.1)


def test_text_is_copied_without_secrets_and_other_files_as_they_are(record: Make, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("uri: https://me:word@host/x\n")
    (tmp_path / "weights.bin").write_bytes(b"https://me:word@host/x\xff")
    entry = spool.add(record(artifacts=(tmp_path / "params.yaml", tmp_path / "weights.bin")))
    assert (entry / "artifacts/params.yaml").read_text() == "uri: https://***@host/x\n"
    assert (entry / "artifacts/weights.bin").read_bytes() == b"https://me:word@host/x\xff"


def test_a_damaged_entry_is_a_fault_of_its_own(record: Make) -> None:
    entry = spool.add(record())
    (entry / "record.json").write_text("{")
    with pytest.raises(ValueError, match="Invalid JSON"):
        spool.read(entry)


def test_who_waits_sends_once_the_other_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    spool.SPOOL.mkdir(parents=True)
    with open(spool.SPOOL / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        threading.Timer(0.15, fcntl.flock, (lock, fcntl.LOCK_UN)).start()
        with spool.sending(wait=30.0):
            pass


@pytest.mark.parametrize(("ago", "took", "lately"), [
    (0.0, 0.5, True),
    (50.0, 0.5, True),
    (70.0, 0.5, False),
    (70.0, 8.0, True),  # 8 s are a tenth of 80 s
    (90.0, 8.0, False),
    (-50.0, 0.5, False),  # of a clock that was set back
])
def test_sent_lately_is_by_the_time_and_by_what_sending_takes(ago: float, took: float, lately: bool) -> None:
    spool.SPOOL.mkdir(parents=True)
    spool.mark_sent(took)
    when = time.time() - ago
    os.utime(spool.SPOOL / ".sent", (when, when))
    assert spool.sent_lately(seconds=60.0, share=0.1) is lately


@pytest.mark.parametrize(("note", "lately"), [("", True), ("soon", False)])
def test_a_note_cut_short_counts_by_its_time_and_a_damaged_one_for_nothing(note: str, lately: bool) -> None:
    spool.SPOOL.mkdir(parents=True)
    (spool.SPOOL / ".sent").write_text(note)
    assert spool.sent_lately(seconds=60.0, share=0.1) is lately


def test_what_another_process_sweeps_meanwhile_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    (spool.SPOOL / ".unfinished-1").mkdir(parents=True)
    whole = Path.stat

    def swept(path: Path, **options: Any) -> os.stat_result:
        if path.name.startswith(".unfinished-"):
            shutil.rmtree(path)
        return whole(path, **options)

    monkeypatch.setattr(Path, "stat", swept)
    with spool.sending(wait=0.0):
        pass
    assert not (spool.SPOOL / ".unfinished-1").exists()
