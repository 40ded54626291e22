"""Files below a folder, in a zip or in a tar, under one face: listed with every name checked, read as streams.

Nothing is extracted to disk. Refused by name: members that lead out of the archive (`../`, absolute paths,
backslashes), links, encrypted ones, what is neither file nor folder, and archives that declare, or turn out to
hold, more than 200 times their own size and 64 MiB (a decompression bomb).
"""

from __future__ import annotations

import errno
import gzip
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol, runtime_checkable

from nfk.data.image_set import DataError

_LARGEST_RATIO, _ALWAYS_ALLOWED = 200, 64 << 20
_LARGEST_HEADER = 1 << 20  # of a tar's extended headers, which are read whole
_LEFT_BY_SYSTEMS = {"__MACOSX", "Thumbs.db", "desktop.ini"}


@runtime_checkable
class Readable(Protocol):
    """A stream of bytes, whichever archive it comes from."""

    def read(self, count: int = -1, /) -> bytes:
        """The next `count` bytes, fewer at the end only."""


class Member:
    """A file of a Tree, to be read once and before the next is asked for."""

    def __init__(self, tree: Tree, name: str, stream: Readable) -> None:
        self.name, self.where = name, tree.where(name)
        self._path, self._stream = tree.path, stream

    def read(self, count: int) -> bytes:
        """The next `count` bytes, fewer at the end only."""
        with _whole(self._path):
            return self._stream.read(count)


@runtime_checkable
class Tree(Protocol):
    """`files` and `folders` are relative paths with `/`, sorted, without hidden ones."""

    path: Path
    files: tuple[str, ...]
    folders: tuple[str, ...]

    def read(self, names: Collection[str]) -> Generator[Member, None, None]:
        """The files `names`, in the container's order."""

    def where(self, name: str) -> str:
        """What to call the file `name` in an error."""


class FolderTree:
    """A folder, or those of its `files` that are named."""

    def __init__(self, path: Path, files: Collection[str] | None = None) -> None:
        self.path = path
        found_files, found_folders = [], []
        for parent, folders, names in os.walk(path, onerror=_raise):
            here = Path(parent).relative_to(path)
            found_files += [(here / name).as_posix() for name in names]
            found_folders += [(here / name).as_posix() for name in folders]
            if files is not None:
                break
        self.files = _visible(found_files if files is None else files)
        self.folders = _visible(found_folders if files is None else ())

    def read(self, names: Collection[str]) -> Generator[Member, None, None]:
        for name in sorted(names):
            with (self.path / name).open("rb") as stream:
                yield Member(self, name, stream)

    def where(self, name: str) -> str:
        return str(self.path / name)


class ZipTree:
    def __init__(self, path: Path) -> None:
        self.path = path
        with _whole(path), zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        limit = _limit(path)
        for entry in entries:
            kind = stat.S_IFMT(entry.external_attr >> 16)
            _check_name(path, entry.orig_filename)  # as stored: ZipInfo.filename is mended
            if not entry.filename:
                raise DataError(f"{path}: a file without a name; fetch it again")
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DataError(f"{path}: {entry.filename}: is a link or no file; put the image itself there")
            if entry.flag_bits & 1:
                raise DataError(f"{path}: {entry.filename}: is encrypted; decrypt it")
            limit = _less(limit, entry.file_size, path, entry.filename)
        self._entries = {_plain(entry.filename): entry for entry in entries}
        self.files = _visible(entry.filename for entry in entries if not entry.is_dir())
        self.folders = _visible(entry.filename.rstrip("/") for entry in entries if entry.is_dir())

    def read(self, names: Collection[str]) -> Generator[Member, None, None]:
        with _whole(self.path), zipfile.ZipFile(self.path) as archive:
            for name in sorted(names):
                with archive.open(self._entries[name]) as stream:
                    yield Member(self, name, stream)  # ends at the declared size, where its CRC-32 is checked

    def where(self, name: str) -> str:
        return f"{self.path}: {name}"


class TarTree:
    """A tar, plain or gzipped; read from front to back each time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        files, folders, limit = [], [], _limit(path)
        for _, entry in self._members():
            _check_name(path, entry.name)
            if entry.isdir():
                folders.append(_plain(entry.name))
            elif entry.isreg():
                limit = _less(limit, entry.size, path, entry.name)
                files.append(_plain(entry.name))
            else:
                raise DataError(f"{path}: {entry.name}: is a link or no file; put the image itself there")
        self.files, self.folders = _visible(files), _visible(folders)

    def read(self, names: Collection[str]) -> Generator[Member, None, None]:
        wanted = set(names)
        for archive, entry in self._members():
            if _plain(entry.name) in wanted:
                stream = archive.extractfile(entry)
                if stream is not None:  # as it is for every regular file, and only those are in `files`
                    yield Member(self, _plain(entry.name), stream)

    def _members(self) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
        with _whole(self.path), self.path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            # not tarfile's own decompression, which takes a cut stream for the end
            stream = gzip.GzipFile(fileobj=file) if zipped else file
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=_StrictHeader) as archive:
                while (entry := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]  # a million of them would fill the memory
                    yield archive, entry
            while stream.read(1 << 20):  # to the CRC-32 of gzip
                pass

    def where(self, name: str) -> str:
        return f"{self.path}: {name}"


class _StrictHeader(tarfile.TarInfo):
    """A header of a tar; tarfile itself takes a damaged or missing one for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictHeader:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the block of zeros that ends a tar
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error
        if header.type not in (*tarfile.REGULAR_TYPES, *tarfile.SUPPORTED_TYPES[:7]) \
                and header.size > _LARGEST_HEADER:
            raise tarfile.ReadError(f"an extended header of {header.size:,} bytes")
        return header


@contextmanager
def member(tree: Tree, name: str) -> Iterator[Member]:
    """The file `name` alone."""
    reading = tree.read([name])
    try:
        yield next(reading)
    finally:
        reading.close()


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Any fault of the archive at `path` in one line."""
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, struct.error, RuntimeError,
            ValueError, LookupError, OverflowError) as error:  # whatever the library makes of hostile headers
        # EINVAL: a place beyond what a file can have; without a number: gzip's own and bzip2's
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not a whole archive ({reason}); fetch it again") from error


def _check_name(path: Path, name: str) -> None:
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\\" in name or "\0" in name or ":" in name.split("/")[0]:
        raise DataError(f"{path}: {name!r}: leads out of the archive; re-make it with plain relative names")


def _limit(path: Path) -> int:
    return _LARGEST_RATIO * path.stat().st_size + _ALWAYS_ALLOWED


def _less(limit: int, size: int, path: Path, name: str) -> int:
    if size > limit:
        raise DataError(f"{path}: {name}: with it the files declare more than {_LARGEST_RATIO} times the archive's "
                        "own size and 64 MiB (a decompression bomb?); unpack it yourself if you trust it")
    return limit - size


def _plain(name: str) -> str:
    return PurePosixPath(name).as_posix()


def _visible(names: Collection[str] | Iterator[str]) -> tuple[str, ...]:
    return tuple(sorted({_plain(name) for name in names if not any(
        part.startswith(".") or part in _LEFT_BY_SYSTEMS for part in PurePosixPath(name).parts)}))


def _raise(error: OSError) -> None:
    raise error
