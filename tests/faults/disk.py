"""A disk whose n-th operation fails, or is the last one before the power goes.

What a power cut takes follows POSIX alone: a file's bytes last from the sync of the file on, a name (made, renamed or
removed) from that of the folder it is in. Nothing is promised of the rest, so it is tried four ways.

All in one process: operations are done at once on a real folder, and what no sync covers is taken back at the cut.
The process goes on afterwards as the next one would, on an undamaged disk; what the cut-off code still tries (its
`finally` and `except` blocks) meets a dead disk. `test_durable.py` ends a process for real.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from nfk import durable

Kind = Literal["EIO", "ENOSPC", "short", "kept", "dropped", "torn", "emptied"]
FAILURES: tuple[Kind, ...] = ("EIO", "ENOSPC", "short")
CUTS: tuple[Kind, ...] = ("kept", "dropped", "torn", "emptied")
"""What a cut leaves of what was not synced. kept: all (a killed process); dropped: neither names nor bytes; torn:
names, and of the bytes the first half; emptied: names without bytes."""


class Fault(NamedTuple):
    """The n-th operation (from 1) fails, or is where the power goes."""

    at: int
    kind: Kind
    lasting: bool = False
    """and all after it fail too"""


class PowerCut(BaseException):
    """Where a process ended; nothing in the product catches it."""


@dataclass
class _Name:
    """A change of a folder's names that may be taken back."""

    folder: Path
    what: Literal["made", "renamed", "removed"]
    path: Path
    was: Path | None = None
    """renamed: its former path"""
    aside: Path | None = None
    """what was at `path` before"""


@dataclass
class FaultyDisk(durable.Disk):
    """`root`: below it all is on this disk. `aside`: a folder for what may come back."""

    root: Path
    aside: Path
    fault: Fault | None = None
    count: int = 0
    told: list[str] = field(default_factory=list)
    """each operation, for people"""
    met: bool = False
    cut: bool = False
    _names: list[_Name] = field(default_factory=list)
    _bytes: dict[int, bytes] = field(default_factory=dict)
    """of an inode: what it held when last synced"""
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _kept: int = 0

    # --- the operations ---

    def create(self, path: Path, flags: int) -> int:
        with self._lock:
            self._step("create", path)
            new = not os.path.lexists(path)
            before = b"" if new else path.read_bytes()
            handle = super().create(path, flags)
            self._bytes.setdefault(os.fstat(handle).st_ino, before)
            if new:
                self._names.append(_Name(path.parent, "made", path))
            try:
                self._end()
            except PowerCut:
                os.close(handle)
                raise
            return handle

    def write(self, handle: int, body: durable.Body, at: int) -> int:
        with self._lock:
            short = self._step("write", handle)
            found = os.fstat(handle)
            if found.st_nlink and found.st_ino not in self._bytes:
                self._bytes[found.st_ino] = os.pread(handle, found.st_size, 0)
            if short:
                body = memoryview(body)[: len(body) // 2]
                if not len(body):
                    raise OSError(errno.ENOSPC, "no room")
            done = super().write(handle, body, at)
            self._end()
            return done

    def truncate(self, handle: int, size: int) -> None:
        with self._lock:
            self._step("truncate", handle)
            found = os.fstat(handle)
            self._bytes.setdefault(found.st_ino, os.pread(handle, found.st_size, 0))
            super().truncate(handle, size)
            self._end()

    def sync(self, handle: int) -> None:
        with self._lock:
            self._step("sync", handle)
            found = os.fstat(handle)
            self._bytes.pop(found.st_ino, None)
            kept: list[_Name] = []
            for name in self._names:
                if not (name.folder.exists() and os.path.samestat(os.stat(name.folder), found)):
                    kept.append(name)
                elif name.what == "removed":  # with a folder goes all that was in it, also where its path comes again
                    kept = [other for other in kept if not other.folder.is_relative_to(name.path)]
            self._names = kept
            self._end()

    def rename(self, old: Path, new: Path) -> None:
        with self._lock:
            self._step("rename", new)
            aside = self._put_aside(new) if os.path.lexists(new) and not new.is_dir() else None
            super().rename(old, new)
            for name in self._names:  # what lies below moves with it
                name.folder, name.path = _moved(name.folder, old, new), _moved(name.path, old, new)
                name.was = name.was and _moved(name.was, old, new)
            self._names.append(_Name(new.parent, "renamed", new, was=old, aside=aside))
            self._end()

    def unlink(self, path: Path) -> None:
        with self._lock:
            self._step("unlink", path)
            aside = self._put_aside(path) if os.path.lexists(path) else None
            super().unlink(path)
            self._names.append(_Name(path.parent, "removed", path, aside=aside))
            self._end()

    def make_folder(self, path: Path) -> None:
        with self._lock:
            self._step("make_folder", path)
            super().make_folder(path)
            self._names.append(_Name(path.parent, "made", path))
            self._end()

    def remove_folder(self, path: Path) -> None:
        with self._lock:
            self._step("remove_folder", path)
            super().remove_folder(path)
            self._names.append(_Name(path.parent, "removed", path))
            self._end()

    # --- faults ---

    def _step(self, what: str, where: Path | int) -> bool:
        """Count an operation and let it fail; whether it is to write but a part."""
        if self.cut:
            raise PowerCut
        self.count += 1
        if isinstance(where, int):
            where = Path(os.readlink(f"/proc/self/fd/{where}"))
        self.told.append(f"{what} {os.path.relpath(where, self.root)}")
        fault = self.fault
        if fault is None or fault.kind in CUTS or not (
                self.count == fault.at or (fault.lasting and self.count > fault.at)):
            return False
        if not applies(fault.kind, what):
            return False
        self.met = True
        if fault.kind == "short":
            if self.count > fault.at:
                raise OSError(errno.ENOSPC, "no room")
            return True
        number = getattr(errno, fault.kind)
        raise OSError(number, os.strerror(number), str(where))

    def _end(self) -> None:
        """After an operation: the cut, if it is now."""
        fault = self.fault
        if fault is not None and fault.kind in CUTS and self.count == fault.at:
            self.met = True
            self.cut_now(fault.kind)

    def cut_now(self, kind: Kind) -> None:
        """Leave the folder as the power cut may, and end."""
        self.cut = True
        if kind == "dropped":
            for name in reversed(self._names):
                self._take_back(name)
        if kind != "kept":
            for folder, _, files in os.walk(self.root):
                for file in files:
                    path = Path(folder, file)
                    before = self._bytes.get(path.stat().st_ino)
                    if before is not None:
                        content = path.read_bytes()
                        whole = max(len(before), len(content)) // 2
                        # a rewritten file: its new half, and the old one after it
                        torn = content[:whole] + (before[whole:] if len(before) > whole else b"")
                        path.write_bytes(torn if kind == "torn" else before)
        raise PowerCut

    def _take_back(self, name: _Name) -> None:
        if not name.folder.is_dir():  # it went with the folder it was in
            return
        path, was = name.path, name.was
        if name.what == "made":
            _remove(path)
        elif was is not None and os.path.lexists(path) and was.parent.is_dir():
            os.rename(path, was)
            for other in self._names:
                other.folder, other.path = _moved(other.folder, path, was), _moved(other.path, path, was)
        if name.aside is not None:
            os.rename(name.aside, path)
        elif name.what == "removed":
            path.mkdir()

    def _put_aside(self, path: Path) -> Path:
        self._kept += 1
        kept = self.aside / str(self._kept)
        os.link(path, kept, follow_symlinks=False)
        return kept

    @contextmanager
    def in_use(self) -> Iterator[FaultyDisk]:
        """In the place of the real one; its PowerCut ends here."""
        shutil.rmtree(self.aside, ignore_errors=True)
        self.aside.mkdir(parents=True)
        real, durable.disk = durable.disk, self
        try:
            yield self
        except PowerCut:
            pass
        finally:
            durable.disk = real


def applies(kind: Kind, what: str) -> bool:
    """Whether the operation can fail so. A full disk lets syncs and removals be."""
    return {"short": what == "write", "ENOSPC": what in ("create", "write", "make_folder", "rename")}.get(kind, True)


def _moved(path: Path, old: Path, new: Path) -> Path:
    return new / path.relative_to(old) if path.is_relative_to(old) else path


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
