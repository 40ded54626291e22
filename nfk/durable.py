"""Every change to a disk: what stores, checkpoints, markers, params and the spool are written with.

A system call each (`Disk`) and the few ways to combine them. Nothing else in the product opens a file to write it,
renames or removes one, so that a test can let the n-th operation fail or be the last one, and see what is left.

What is durable when: a file's bytes after `sync` of the file, its name after `sync` of the folder it is in.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

Body = bytes | bytearray | memoryview
_COPIED_AT_ONCE = 4 << 20


class DiskFull(OSError):
    """No room for bytes to be written; one line that says how many."""


class Disk:
    """The operations, one system call each. Tests put another in the place of `disk`."""

    def create(self, path: Path, flags: int) -> int:
        return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(self, handle: int, body: Body, at: int) -> int:
        return os.pwrite(handle, body, at)

    def truncate(self, handle: int, size: int) -> None:
        os.ftruncate(handle, size)

    def sync(self, handle: int) -> None:
        os.fsync(handle)

    def rename(self, old: Path, new: Path) -> None:
        os.rename(old, new)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def make_folder(self, path: Path) -> None:
        os.mkdir(path)

    def remove_folder(self, path: Path) -> None:
        os.rmdir(path)


disk = Disk()


class File:
    """A file open for writing at any place, and for reading; closed with the object at the latest."""

    def __init__(self, handle: int, path: Path | None) -> None:
        self.handle, self.path = handle, path
        self._closed = weakref.finalize(self, os.close, handle)

    def __reduce__(self) -> NoReturn:
        # its number means another file to another process, or once this object is gone
        raise TypeError(f"{self.path or 'a temporary file'} is open in this process and cannot be copied or pickled; "
                        "save what it holds (NeuralFisherKernel.save) and load that")

    def write(self, body: Any, at: int) -> int:
        """All of `body` (anything with a buffer) from byte `at` on; the byte after it. DiskFull says what is needed."""
        left = memoryview(body)
        if left.nbytes == 0:
            return at
        left = left.cast("B")
        while len(left):
            try:
                done = disk.write(self.handle, left, at)
            except OSError as fault:
                if fault.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                free = shutil.disk_usage(self.path.parent if self.path else tempfile.gettempdir()).free
                raise DiskFull(f"{self.path or 'a temporary file'}: {len(left):,} bytes more are needed here, "
                               f"{free:,} are free on this disk; make room and run again") from fault
            left, at = left[done:], at + done
        return at

    def read(self, count: int, at: int) -> bytes:
        """Bytes [at, at + count), fewer at the end of the file."""
        parts = []
        while count and (part := os.pread(self.handle, count, at)):
            parts.append(part)
            count, at = count - len(part), at + len(part)
        return b"".join(parts)

    def read_into(self, rows: Any, at: int) -> bool:
        """Fill an array's bytes from byte `at` on; whether the file had so much."""
        left = memoryview(rows).cast("B")
        while len(left) and (done := os.preadv(self.handle, [left], at)):
            left, at = left[done:], at + done
        return len(left) == 0

    def sync(self) -> None:
        """Put the bytes on disk."""
        disk.sync(self.handle)

    def close(self) -> None:
        self._closed()

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --- files ---


def opened(path: Path, *, keep: bool = True) -> File:
    """The file, made if it is absent; `keep`: with what it holds."""
    return File(disk.create(path, os.O_RDWR | (0 if keep else os.O_TRUNC)), path)


def nameless(folder: Path | None = None) -> File:
    """An empty file that is gone with the object, in `folder`, or where temporary files go."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return File(os.dup(file.fileno()), folder and folder / "temporary")


def lock_file(path: Path) -> BinaryIO:
    """The file to lock, made if it is absent. It holds nothing that must last."""
    make_folders(path.parent)
    return open(path, "a+b", buffering=0)


def empty(handle: int) -> None:
    """A lock file without what it said, for its holder."""
    os.ftruncate(handle, 0)


def hold(handle: int, *, wait: bool = False) -> bool:
    """Whether this open file or folder was nobody else's (`wait`: once it is); held until the handle is closed, however
    the process ends."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as fault:  # file systems without locks, on folders or at all
        if fault.errno not in (errno.EBADF, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
            raise
    return True


def write(path: Path, body: Any) -> None:
    """A file of these bytes, durable once it is synced: for a folder that is moved into place when whole."""
    with opened(path, keep=False) as file:
        file.write(body, 0)


def write_whole(path: Path, *bodies: Any) -> None:
    """A file of these bytes, durably, in one rename: what was there stays until all is on disk."""
    with replaced(path) as file:
        at = 0
        for body in bodies:
            at = file.write(body, at)


@contextmanager
def replaced(path: Path) -> Iterator[File]:
    """A file to fill; it takes the place of `path` when it is on disk. An exception inside leaves `path` as it was."""
    make_folders(path.parent)
    partial = path.with_name(f".{path.name}.partial")  # one name, so that what a kill left is the next one's to fill
    with _alone(partial) as file:
        try:
            disk.truncate(file.handle, 0)
            yield file
            file.sync()
            rename(partial, path)
        except BaseException:
            with suppress(OSError):  # the fault itself is what is told
                disk.unlink(partial)
            raise


@contextmanager
def _alone(path: Path) -> Iterator[File]:
    """The file, once no other process writes it."""
    while True:
        with opened(path) as file:
            hold(file.handle, wait=True)
            with suppress(FileNotFoundError):  # the one before renamed it
                if os.path.samestat(os.fstat(file.handle), os.stat(path)):
                    yield file
                    return


def copy(source: Path, target: Path) -> None:
    """The bytes of a file, as `write` does it; reads some MiB at a time."""
    with source.open("rb") as file, opened(target, keep=False) as out:
        at = 0
        while body := file.read(_COPIED_AT_ONCE):
            at = out.write(body, at)


def rename(old: Path, new: Path) -> None:
    """Durably, in one step; what was at `new` is replaced. Both are in one folder."""
    disk.rename(old, new)
    sync(new.parent)


def remove(path: Path) -> None:
    """The file, if it is there."""
    with suppress(FileNotFoundError):
        disk.unlink(path)


# --- folders ---


def make_folders(path: Path, *, lasting: bool = True) -> None:
    """The folder and those above it; `lasting`: the names of the new ones are put on disk."""
    if path.is_dir():
        return
    make_folders(path.parent, lasting=lasting)
    with suppress(FileExistsError):  # another process was first
        disk.make_folder(path)
    if lasting:
        sync(path.parent)


def make_folder(path: Path) -> None:
    """A new folder, durable once the one above it is synced."""
    disk.make_folder(path)


def remove_tree(path: Path) -> None:
    """The folder and all in it, or the file, if it is there: links are removed, not followed."""
    if path.is_symlink() or not path.is_dir():
        remove(path)
        return
    for name in sorted(os.listdir(path)):
        remove_tree(path / name)
    with suppress(FileNotFoundError):
        disk.remove_folder(path)


def sync_tree(folder: Path) -> None:
    """Put every file and folder below `folder`, and itself, on disk."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            sync_tree(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            sync(Path(entry.path))
    sync(folder)


def sync(path: Path) -> None:
    """Put a file's bytes, or the names in a folder, on disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        disk.sync(handle)
    finally:
        os.close(handle)
