"""Records on their way to the tracker: whole or absent, in the order they were made, with their files.

An entry is a folder `TIME-ID/` of `record.json`, `figures/` and `artifacts/`. It is made under a hidden name,
synced to disk and renamed, so that a crash leaves no half of it; the files are copies, so that the next run
of a stage may overwrite the originals.
"""

from __future__ import annotations

import fcntl
import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nfk import durable
from nfk.tracking.record import Record, StageRecord, parse
from nfk.tracking.redaction import redact, redact_tree

SPOOL = Path(".nfk/spool")
_RECORD, _LOCK, _SENT, _UNFINISHED = "record.json", ".lock", ".sent", ".unfinished-"
_REDACTED_SUFFIXES = frozenset({".yaml", ".yml", ".lock", ".json", ".txt"})
_STALE_SECONDS = 3600.0


class SpoolBusy(RuntimeError):
    """Another process is sending the spool."""


def add(record: Record) -> Path:
    """Keep `record` and copies of its files, secrets redacted; an entry of the same id is replaced."""
    durable.make_folders(SPOOL)
    unfinished = SPOOL / f"{_UNFINISHED}{uuid.uuid4().hex}"  # process numbers come again, in containers at once
    durable.make_folder(unfinished)
    try:
        content = redact_tree(record.model_dump(mode="json", exclude={"figures", "artifacts"}))
        durable.write(unfinished / _RECORD, json.dumps(content).encode())
        _copy(record.artifacts, unfinished / "artifacts")
        if isinstance(record, StageRecord):
            _copy(record.figures, unfinished / "figures")
        durable.sync_tree(unfinished)
        entry = SPOOL / f"{time.time_ns():020d}-{record.id}"
        earlier = _of_id(record.id)
        durable.rename(unfinished, entry)
    except BaseException:
        with suppress(OSError):  # the fault itself is what is told; what is left is swept in time
            durable.remove_tree(unfinished)
        raise
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
        durable.rename(entry, leaving)
    except FileNotFoundError:  # another process sent it
        return
    with suppress(OSError):  # it is no entry any more
        durable.remove_tree(leaving)


@contextmanager
def sending(wait: float) -> Iterator[None]:
    """Hold the right to send; SpoolBusy when another process still holds it after `wait` seconds.

    One sender at a time: two would both find no parent run and make one each.
    """
    with durable.lock_file(SPOOL / _LOCK) as lock:
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


def mark_sent(took: float) -> None:
    """Note that the tracker took something now, in `took` seconds."""
    durable.write(SPOOL / _SENT, str(took).encode())


def sent_lately(seconds: float, share: float) -> bool:
    """Whether the tracker took something in the last `seconds`, or in so many more that sending again now would take
    more than this `share` of the time."""
    try:
        note = SPOOL / _SENT
        return 0 <= time.time() - note.stat().st_mtime < max(seconds, float(note.read_text() or 0) / share)
    except (OSError, ValueError):
        return False


def _of_id(record_id: str) -> list[Path]:
    return [entry for entry in entries() if entry.name.split("-", 1)[1] == record_id]


def _copy(files: tuple[Path, ...], folder: Path) -> None:
    """Copy `files` under names that differ; text has its secrets redacted on the way."""
    durable.make_folder(folder)
    for file in files:
        target, repeat = folder / file.name, 1
        while target.exists():
            repeat += 1
            target = folder / f"{file.stem}-{repeat}{file.suffix}"
        if file.suffix in _REDACTED_SUFFIXES:
            durable.write(target, redact(file.read_text(encoding="utf-8")).encode())
        else:
            durable.copy(file, target)


def _sweep() -> None:
    """Remove what processes that were killed left half-made."""
    for path in SPOOL.glob(f"{_UNFINISHED}*"):
        try:
            stale = time.time() - path.stat().st_mtime > _STALE_SECONDS
        except FileNotFoundError:
            continue
        if stale:
            with suppress(OSError):
                durable.remove_tree(path)
