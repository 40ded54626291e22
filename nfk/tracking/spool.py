"""Records on their way to the tracker: whole or absent, in the order they were made, with their files.

An entry is a folder `TIME-ID/` of `record.json`, `figures/` and `artifacts/`. It is made under a hidden name,
synced to disk and renamed, so that a crash leaves no half of it; the files are copies, so that the next run
of a stage may overwrite the originals.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nfk.tracking.record import Record, StageRecord, parse
from nfk.tracking.redaction import redact, redact_tree

SPOOL = Path(".nfk/spool")
_RECORD, _LOCK, _UNFINISHED = "record.json", ".lock", ".unfinished-"
_REDACTED_SUFFIXES = frozenset({".yaml", ".yml", ".lock", ".json", ".txt"})
_STALE_SECONDS = 3600.0


class SpoolBusy(RuntimeError):
    """Another process is sending the spool."""


def add(record: Record) -> Path:
    """Keep `record` and copies of its files, secrets redacted; an entry of the same id is replaced."""
    SPOOL.mkdir(parents=True, exist_ok=True)
    unfinished = SPOOL / f"{_UNFINISHED}{os.getpid()}-{record.id}"
    unfinished.mkdir()
    try:
        content = redact_tree(record.model_dump(mode="json", exclude={"figures", "artifacts"}))
        (unfinished / _RECORD).write_text(json.dumps(content), encoding="utf-8")
        _copy(record.artifacts, unfinished / "artifacts")
        if isinstance(record, StageRecord):
            _copy(record.figures, unfinished / "figures")
        for path in (*unfinished.rglob("*"), unfinished):
            _sync(path)
        entry = SPOOL / f"{time.time_ns():020d}-{record.id}"
        earlier = _of_id(record.id)
        unfinished.rename(entry)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    _sync(SPOOL)
    for path in earlier:
        remove(path)
    return entry


def entries() -> list[Path]:
    """The whole entries, oldest first."""
    if not SPOOL.is_dir():
        return []
    return sorted(path for path in SPOOL.iterdir() if path.is_dir() and not path.name.startswith("."))


def read(entry: Path) -> Record:
    return parse((entry / _RECORD).read_text(encoding="utf-8"))


def remove(entry: Path) -> None:
    """Take an entry out, in one step for every reader."""
    leaving = entry.with_name(f"{_UNFINISHED}{entry.name}")
    try:
        entry.rename(leaving)
    except FileNotFoundError:  # another process sent it
        return
    shutil.rmtree(leaving, ignore_errors=True)


@contextmanager
def sending(wait: float) -> Iterator[None]:
    """Hold the right to send; SpoolBusy when another process still holds it after `wait` seconds.

    One sender at a time: two would both find no parent run and make one each.
    """
    SPOOL.mkdir(parents=True, exist_ok=True)
    with open(SPOOL / _LOCK, "a") as lock:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise SpoolBusy("another process is sending") from None
                time.sleep(0.1)
        _sweep()
        yield


def _of_id(record_id: str) -> list[Path]:
    return [entry for entry in entries() if entry.name.split("-", 1)[1] == record_id]


def _copy(files: tuple[Path, ...], folder: Path) -> None:
    """Copy `files` under names that differ; text has its secrets redacted on the way."""
    folder.mkdir()
    for file in files:
        target, repeat = folder / file.name, 1
        while target.exists():
            repeat += 1
            target = folder / f"{file.stem}-{repeat}{file.suffix}"
        if file.suffix in _REDACTED_SUFFIXES:
            target.write_text(redact(file.read_text(encoding="utf-8")), encoding="utf-8")
        else:
            shutil.copyfile(file, target)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep() -> None:
    """Remove what processes that were killed left half-made."""
    for path in SPOOL.glob(f"{_UNFINISHED}*"):
        try:
            stale = time.time() - path.stat().st_mtime > _STALE_SECONDS
        except FileNotFoundError:
            continue
        if stale:
            shutil.rmtree(path, ignore_errors=True)
