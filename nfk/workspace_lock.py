"""One pipeline at a time in a workspace."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import psutil

from nfk import durable, dvc_lock

LOCK_FILE = Path(".nfk/pipeline.lock")
_held: ContextVar[dict[Path, int]] = ContextVar("held", default={})  # noqa: B039 - never changed, only replaced


class WorkspaceBusy(ValueError):
    """Another pipeline runs in this workspace; the message names its process."""


@contextmanager
def workspace_lock(path: Path = LOCK_FILE) -> Iterator[int]:
    """Hold the workspace, or raise WorkspaceBusy at once.

    Yields the lock's file descriptor. A child process that inherits it (`pass_fds`) holds the workspace too:
    if this process is killed, the next pipeline is refused until the stage left running has ended. The system
    frees the lock with the last holder, so that no stale lock is possible; the file stays. Inside the block of a
    holder, as in a flow that a flow calls, it is the holder's own.

    The whole workspace (LOCK_FILE) is also refused while a `dvc` that someone runs by hand writes in it.
    """
    place = path.resolve()
    if (own := _held.get().get(place)) is not None:
        yield own
        return
    with durable.lock_file(path) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise WorkspaceBusy(_who(lock.read().decode(errors="replace").strip(), path)) from None
        if path == LOCK_FILE and (by_hand := dvc_lock.other_dvc()):
            raise WorkspaceBusy(f"{by_hand}, works in this workspace; wait for it, or end it")
        lock.truncate(0)
        lock.write(str(os.getpid()).encode())
        token = _held.set({**_held.get(), place: lock.fileno()})
        try:
            yield lock.fileno()
        finally:
            _held.reset(token)
        # closed, not unlocked: unlocking would free it for the children that hold it too


@contextmanager
def stage_lock(path: Path) -> Iterator[None]:
    """As `workspace_lock`, for one stage, of which `cut_off` can tell how it ended."""
    with workspace_lock(path) as handle:
        try:
            yield
        finally:
            durable.empty(handle)


def cut_off(path: Path) -> bool:
    """Whether the last holder of a `stage_lock` was killed: nobody holds it, and it still names a process."""
    with durable.lock_file(path) as lock:
        return durable.hold(lock.fileno()) and lock.seek(0, os.SEEK_END) > 0


def _who(holder: str, path: Path) -> str:
    if holder.isdigit() and not psutil.pid_exists(int(holder)):
        return (f"a stage of the pipeline that was process {holder} still runs in this workspace ({path}); "
                f"wait for it, or end it")
    return (f"a pipeline already runs in this workspace, process {holder or 'unknown'} ({path}); "
            f"wait for it, or end it")
