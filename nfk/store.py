"""Durable stores: checksummed, sharded Zarr written whole or not at all, and scratch that survives a crash.

A store is complete only when its commit marker is there. The marker is written last, after every file and
folder is synced to disk, and holds a manifest: every array's shape and dtype, every file with its size and
SHA-256, and the digests of what the store was made from. `read` holds the files against the manifest, since
zarr itself reads a missing chunk as the fill value.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nfk import durable
from nfk.checkpoint import RowFile
from nfk.one_line import OneLine

MARKER = "COMMITTED.json"
FORMAT = 1
_CHUNK_BYTES = 1 << 20
_SHARD_BYTES = 64 << 20


class StoreError(OneLine):
    """A store is absent, unfinished, damaged, or made from something else."""


@dataclass(frozen=True)
class Store:
    """A complete store, verified when it was opened."""

    path: Path
    digest: str
    inputs: Mapping[str, str]
    attributes: Mapping[str, Any]
    arrays: Mapping[str, Any]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def __getitem__(self, name: str) -> Any:
        """The array `name`, read from disk only when sliced."""
        if name not in self.arrays:
            raise StoreError(f"{self.path}: no array {name!r}; there are {', '.join(self.arrays)}")
        return self.arrays[name]

    def expect(self, **inputs: str) -> Store:
        """Itself, if it was made from just these inputs; StoreError naming the two that disagree otherwise."""
        for name, digest in inputs.items():
            found = self.inputs.get(name)
            if found != digest:
                made = f"was made from {name} {found[:12]}" if found else f"does not say which {name} it was made from"
                raise StoreError(f"{self.path} {made}, but the {name} here is {digest[:12]}; "
                                 f"remake it with `nfk repro`")
        return self


class StoreWriter:
    """Arrays of a store being written; nothing is visible at the final path before `write` ends."""

    def __init__(self, folder: Path) -> None:
        import zarr

        from nfk.zarr_folder import FilledFolder

        self.folder = folder
        self._group = zarr.create_group(FilledFolder(folder), zarr_format=3)
        self.attributes: dict[str, Any] = {}

    def create(
        self, name: str, shape: tuple[int, ...], dtype: Any, *, compress: bool = False, share: int | None = None
    ) -> Any:
        """An empty array, sharded by rows, every chunk under CRC-32C. Writers must own whole shards: with `share` a
        shard ends at each multiple of so many rows.

        A shard's file is `right/c.0.0`, not `right/c/0/0`: MLflow's client loses a file that lies alone in a folder of
        its own name when it downloads from a server (`HttpArtifactRepository.list_artifacts`)."""
        import zarr
        from zarr.codecs import Crc32cCodec, ZstdCodec

        chunks, shards = _layout(shape, np.dtype(dtype), share)
        codecs = [ZstdCodec(level=3)] if compress else []  # float32 factors shrink by a tenth: not worth it
        return self._group.create_array(
            name, shape=shape, dtype=np.dtype(dtype), chunks=chunks, shards=shards,
            compressors=[*codecs, Crc32cCodec()], fill_value=0,
            chunk_key_encoding={"name": "default", "separator": "."},
            config=zarr.core.array_spec.ArrayConfig.from_dict({"write_empty_chunks": True}))

    def put(self, name: str, values: np.ndarray, *, compress: bool = False) -> None:
        self.create(name, values.shape, values.dtype, compress=compress)[...] = values

    def put_by_shards(self, name: str, values: Any) -> None:
        """Anything with shape, dtype and rows to slice, one shard of it in memory at a time."""
        array = self.create(name, tuple(values.shape), values.dtype)
        for start in range(0, values.shape[0], array.shards[0]):
            stop = min(start + array.shards[0], values.shape[0])
            array[start:stop] = np.asarray(values[start:stop])


@contextmanager
def write(path: Path | str, *, inputs: Mapping[str, str]) -> Iterator[StoreWriter]:
    """Write a store whole: built beside `path`, synced, marked, moved into place in one rename.

    inputs: digest of each thing it is made from, by name. An exception inside leaves `path` as it was.
    """
    with _building(path) as building:
        writer = StoreWriter(building)
        yield writer
        manifest = _manifest(building, dict(inputs), dict(writer.attributes))
        durable.sync_tree(building)
        write_json(building / MARKER, manifest)
    read(path)  # the marker's claims, read back


@contextmanager
def whole_folder(path: Path | str) -> Iterator[Path]:
    """A folder to fill, beside `path`; moved there when all in it is durable.

    An exception inside leaves `path` as it was. What a killed process left beside it is swept first; StoreError
    while another process fills one for the same path.
    """
    with _building(path) as building:
        yield building
        durable.sync_tree(building)


@contextmanager
def _building(path: Path | str) -> Iterator[Path]:
    """`whole_folder`, of a block that itself puts on disk what it fills the folder with."""
    path = Path(path)
    durable.make_folders(path.parent)
    building = _beside(path, "partial")
    with ExitStack() as beginning:
        beginning.enter_context(_turn(path.parent))
        durable.make_folder(building)
        handle = os.open(building, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # held by the system until this process lets go or ends: no other sweeps it meanwhile. Own folder first,
            # then the others': of two that begin at once, where they cannot take turns, one at least sees the other
            held = durable.hold(handle) and building.is_dir()
            if not held or (others := _sweep(path, building)):
                whose = f" ({others[0].name})" if held else ""
                raise StoreError(f"{path}: another process is writing it{whose}; wait for it, or end it")
            beginning.close()
            yield building
            _replace_folder(building, path)
        except BaseException:
            with suppress(OSError):  # the fault itself is what is told; the next writer sweeps what is left
                durable.remove_tree(building)
            raise
        finally:
            os.close(handle)


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """One writer begins in `folder` at a time: of two at once the first writes, and neither sweeps what the other has
    made but does not hold yet. A folder that is itself being filled has one writer anyway, who holds it."""
    if folder.name.endswith(".partial"):
        yield
        return
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        durable.hold(handle, wait=True)
        yield
    finally:
        os.close(handle)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.{ending}")


def _sweep(path: Path, own: Path) -> list[Path]:
    """Remove what ended writers of `path` left, and bring back what one had just moved aside; the folders of others
    that live, which stay."""
    living = []
    for left_over in path.parent.glob(f".{path.name}.*.partial"):
        if left_over == own:
            continue
        if left_over.name.endswith(".old.partial") and not path.exists():
            durable.rename(left_over, path)  # killed between the two renames of a replacement: the former is back
            continue
        with suppress(FileNotFoundError):
            handle = os.open(left_over, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if durable.hold(handle):
                    durable.remove_tree(left_over)
                else:
                    living.append(left_over)
            finally:
                os.close(handle)
    return living


def _replace_folder(new: Path, path: Path) -> None:
    if not path.exists():
        durable.rename(new, path)
        return
    old = _beside(path, "old.partial")
    try:
        durable.rename(path, old)
        durable.rename(new, path)
    except BaseException:
        with suppress(OSError):  # that either is in its place already, if it was a sync that failed
            durable.rename(old, path)
        raise
    with suppress(OSError):  # by another name first, since half of it is nothing to bring back; the next writer sweeps
        gone = _beside(path, "partial")
        durable.rename(old, gone)
        durable.remove_tree(gone)


def read(path: Path | str) -> Store:
    """Open a complete store; every file is held against the manifest (one read of its bytes).

    Raises StoreError naming store and file when the store is absent, unfinished, or differs by one bit.
    """
    import zarr

    from nfk.zarr_folder import WholeFolder

    path = Path(path)
    if not path.is_dir():
        raise StoreError(f"{path}: no such store; make it with `nfk repro`")
    manifest = read_marker(path)
    _check_shape(path, manifest)
    present = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()} - {MARKER}
    listed = manifest["files"]
    for name in sorted(set(listed) - present):
        raise _absent(path, name)
    for name in sorted(present - set(listed)):
        raise StoreError(f"{path}: {_called(name)} is not in the manifest; delete the store and run again")
    for name, (size, digest) in listed.items():
        found = (path / name).stat().st_size
        if found != size:
            raise StoreError(f"{path}: {_called(name)} has {found} bytes, the manifest says {size}; "
                             f"delete the store and run again")
        if file_digest(path / name) != digest:
            raise StoreError(f"{path}: {_called(name)} does not match its checksum; delete the store and run again")
    folder = WholeFolder(path, frozenset(listed), partial(_absent, path))
    with _told(path, "its arrays"):
        group = zarr.open_group(folder, mode="r", zarr_format=3)
        arrays = {name: group[name] for name in manifest["arrays"]}
        for name, array in arrays.items():
            _check_array(path, name, array, manifest)
    return Store(path, manifest["digest"], manifest["inputs"], manifest["attributes"],
                 {name: _Array(path, name, array, manifest["digest"]) for name, array in arrays.items()})


_PASSING = (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT)
"""Faults of the machine, which say nothing of the store"""


class _Array:
    """One of Zarr's arrays, whose faults in reading are told as the store's."""

    def __init__(self, path: Path, name: str, array: Any, digest: str) -> None:
        self._path, self._name, self._array, self._digest = path, name, array, digest

    def check_unchanged(self) -> None:
        """StoreError where another store has taken this one's place since it was opened."""
        if (found := read_marker(self._path)["digest"]) != self._digest:
            raise StoreError(f"{self._path}: was {self._digest[:12]} when it was opened and is {found[:12]} now; load "
                             "it again")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # of an object without its attributes yet, while it is copied
            raise AttributeError(name)
        return getattr(self._array, name)

    def __len__(self) -> int:
        return int(self._array.shape[0])

    def __getitem__(self, rows: Any) -> Any:
        with _told(self._path, f"array {self._name}"):
            return self._array[rows]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype)


def check_unchanged(array: Any) -> None:
    """StoreError where `array` is one of a store's, read as it is used, and the store is another by now."""
    if isinstance(array, _Array):
        array.check_unchanged()


@contextmanager
def _told(path: Path, what: str) -> Iterator[None]:
    """Any fault of Zarr's in one line."""
    try:
        yield
    except (StoreError, MemoryError, IndexError):  # an index out of bounds is the caller's fault
        raise
    except OSError as error:
        if error.errno in _PASSING:
            raise
        raise StoreError(f"{path}: {what} cannot be read ({error}); delete the store and run again") from error
    except Exception as error:  # it raises nearly anything at metadata that are wrong
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StoreError(f"{path}: {what} cannot be read ({reason}); delete the store and run again") from error


def _check_shape(path: Path, manifest: dict[str, Any]) -> None:
    """StoreError unless the manifest has the entries that `_manifest` writes; its digest vouches for who wrote it."""
    kinds = {"inputs": dict, "attributes": dict, "arrays": dict, "files": dict}
    whole = all(isinstance(manifest.get(name), kind) for name, kind in kinds.items())
    if not whole or not all(
            isinstance(entry, list) and [type(part) for part in entry] == [int, str] and _inside(name)
            for name, entry in manifest["files"].items()) or not all(
            _inside(name) and isinstance(entry, dict) for name, entry in manifest["arrays"].items()):
        raise StoreError(f"{path}: {MARKER} is damaged; delete the store and run again")


def _inside(name: str) -> bool:
    """Whether a name leads to a place within the store."""
    return bool(name) and "\0" not in name and not name.startswith("/") and ".." not in name.split("/")


def _check_array(path: Path, name: str, array: Any, manifest: dict[str, Any]) -> None:
    """StoreError unless an array is as the manifest says, with as many files as its shape asks for."""
    listed = manifest["arrays"][name]
    extents = array.shards or array.chunks
    files = sum(file == f"{name}/c" or file.startswith((f"{name}/c.", f"{name}/c/")) for file in manifest["files"])
    wanted = math.prod(-(-extent // shard) for extent, shard in zip(array.shape, extents, strict=True))
    if listed.get("shape") != list(array.shape) or listed.get("dtype") != str(array.dtype) or files != wanted:
        raise StoreError(f"{path}: array {name} is {array.dtype} of shape {array.shape} in {files:,} files, the "
                         f"manifest says {listed.get('dtype')} of shape {listed.get('shape')}, which takes {wanted:,}; "
                         "delete the store and run again")


def _called(name: str) -> str:
    """A file of a store by what it holds."""
    found = re.fullmatch(r"(.+)/c[./](.+)", name)  # with folders as stores were written before
    return f"array {found[1]}, chunk {found[2]}: {name}" if found else name


def _absent(path: Path, name: str) -> StoreError:
    return StoreError(f"{path}: {_called(name)} is missing; delete the store and run again")


def read_marker(path: Path) -> dict[str, Any]:
    """The commit marker of the store at `path`, checked against its own digest."""
    try:
        manifest = json.loads((path / MARKER).read_text(encoding="utf-8"))
        claimed = manifest.pop("digest")
        if manifest["format"] != FORMAT:
            raise StoreError(f"{path}: written in store format {manifest['format']}, this nfk reads {FORMAT}; "
                             f"delete the store and run again")
        if json_digest(manifest) != claimed:
            raise StoreError(f"{path}: {MARKER} does not match its own digest; delete the store and run again")
    except FileNotFoundError:
        raise StoreError(f"{path}: unfinished (no {MARKER}); delete it and run again") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{path}: {MARKER} is damaged; delete the store and run again") from None
    return {**manifest, "digest": claimed}


def _manifest(folder: Path, inputs: dict[str, str], attributes: dict[str, Any]) -> dict[str, Any]:
    import zarr

    group = zarr.open_group(str(folder), mode="r", zarr_format=3)
    files = {str(file.relative_to(folder)): [file.stat().st_size, file_digest(file)]
             for file in sorted(folder.rglob("*")) if file.is_file()}
    manifest = {
        "format": FORMAT,
        "inputs": inputs,
        "attributes": attributes,
        "arrays": {name: {"shape": list(array.shape), "dtype": str(array.dtype)}
                   for name, array in sorted(group.arrays())},
        "files": files,
    }
    return {**manifest, "digest": json_digest(manifest)}


def _layout(
    shape: tuple[int, ...], dtype: np.dtype, share: int | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Chunks of about 1 MiB and shards of about 64 MiB, cut along the rows only; with `share` as much of it as divides
    it and is no more."""
    row_bytes = max(1, dtype.itemsize * math.prod(shape[1:]))
    rows = max(1, shape[0])
    if share is not None:
        rest = tuple(max(1, extent) for extent in shape[1:])
        shard_rows = _divisor(share, _SHARD_BYTES // row_bytes)
        return (_divisor(shard_rows, _CHUNK_BYTES // row_bytes), *rest), (shard_rows, *rest)
    chunk_rows = min(rows, max(1, _CHUNK_BYTES // row_bytes))
    chunks_in_shard = max(1, min(_SHARD_BYTES // (chunk_rows * row_bytes), -(-rows // chunk_rows)))
    rest = tuple(max(1, extent) for extent in shape[1:])
    return (chunk_rows, *rest), (chunk_rows * chunks_in_shard, *rest)


def _divisor(number: int, most: int) -> int:
    """The largest divisor of `number` that is at most `most`, and at least 1."""
    return next(candidate for candidate in range(min(number, max(most, 1)), 0, -1) if number % candidate == 0)


# --- scratch: unfinished work, outside what DVC tracks ---


class Scratch:
    """Checkpoints of one unfinished piece of work, in a folder named by the fingerprint of all it depends on.

    Satisfies `nfk.checkpoint.Checkpoint`. Each checkpoint is one file, replaced in one rename, so that
    a kill leaves the one before; a damaged one counts as absent. `clear` when the result is durable.
    """

    def __init__(self, folder: Path, interval: float = 30.0, within: Path | None = None) -> None:
        """within: a folder of several processes' scratch, which the last of them clears away."""
        self._folder, self._within = folder, within
        self._interval = interval
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether the last save is more than `interval` seconds ago."""
        return time.monotonic() - self._last >= self._interval

    def save(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Store `arrays` under `name`, durably; the former content is replaced in one step."""
        from safetensors.numpy import save

        # safetensors wants C order; np.ascontiguousarray would turn a scalar's shape () into (1,)
        body = save({key: np.asarray(value, order="C") for key, value in arrays.items()})
        durable.write_whole(self._folder / f"{name}.safetensors", hashlib.sha256(body).digest(), body)
        self._last = time.monotonic()

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """What `save` stored under `name`, or None if there is nothing whole."""
        from safetensors.numpy import load

        try:
            content = (self._folder / f"{name}.safetensors").read_bytes()
        except FileNotFoundError:
            return None
        digest, body = content[:32], content[32:]
        return dict(load(body)) if hashlib.sha256(body).digest() == digest else None

    def rows(self, name: str, columns: int, dtype: np.dtype | type) -> RowFile:
        """Rows of the work under `name`, in a file of their own; what a checkpoint counts on is synced before it."""
        return RowFile(columns, dtype, self._folder / f"{name}.rows")

    def clear(self) -> None:
        with suppress(OSError):  # the result is durable; what is left here is found whole, or swept, by the next run
            durable.remove_tree(self._folder)
            if self._within is not None:  # refused while others' are in it
                durable.disk.remove_folder(self._within)


# --- small durable files and digests ---


def write_json(path: Path, content: Any) -> None:
    """Write JSON durably, in one rename."""
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"
    durable.write_whole(path, text.encode())


def json_digest(content: Any) -> str:
    """SHA-256 of the canonical JSON of `content`."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_digest(folder: Path, pattern: str = "*") -> str:
    """SHA-256 over the names and bytes of the files below `folder` that match `pattern`."""
    return json_digest({str(file.relative_to(folder)): file_digest(file)
                        for file in sorted(folder.rglob(pattern)) if file.is_file()})
