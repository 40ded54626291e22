"""A registered embedder, fetched, held against what the registry recorded of it, and only then loaded.

An embedder is code and numbers: weights and factors decide what is computed, and a network of a user's own brings a
module that is imported. At registration the digest of all its files, and of that module's, became tags of the version.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from nfk import embedder, registry, store
from nfk.embedder import Embedder
from nfk.memory import BUDGET_GIB
from nfk.params import PARAMS_FILE, Params, load

_FILES, _CODE = "digest.embedder", "digest.code."


class Opened(NamedTuple):
    """An embedder and what it is called."""

    embedder: Embedder
    name: str
    version: str
    """a number; "local" for a folder"""
    digest: str
    """of all its files"""
    lineage: Mapping[str, str]
    """the version's tags; the digests it was made from, for a folder"""

    @property
    def reference(self) -> str:
        return f"{self.name}/{self.version}"


@contextmanager
def opened(
    params: Params | None, reference: str, memory_gib: float = BUDGET_GIB
) -> Iterator[Opened]:
    """The embedder that NAME@ALIAS or NAME/VERSION names, or the one in a local folder that `nfk.embedder.write` made.

    params: None: those of params.yaml, read where the registry is asked. memory_gib: as `Embedder.load` has it.

    A folder's network of somebody's own code is refused (ModelError) unless params.yaml names that code.

    RegistryError where one byte of its files, or of the module its network comes from, is not what was registered, or
    where nothing was recorded; ModelError and StoreError where a folder does not agree with itself. What was fetched
    stays until the block ends, since a right factor may be read by parts, and a user's module may import more of
    itself, later. Reads its bytes twice.
    """
    folder = Path(reference)
    if (folder / embedder.FACTORS).is_dir():
        # a folder may come from anyone: the code it names must be one of this workspace's own
        own = params or (load() if PARAMS_FILE.exists() else None)
        found = Embedder.load(folder, memory_gib, code=own.code if own else ())
        yield Opened(found, folder.resolve().name, "local", embedder.digest(folder),
                     {f"digest.{name}": digest for name, digest in found.inputs.items()})
        return
    with TemporaryDirectory(prefix="nfk-embedder-") as scratch:
        with registry.connect((params or load()).tracking) as client:
            entry = registry.find(client, reference)
            import mlflow

            bundle = Path(mlflow.artifacts.download_artifacts(f"models:/{entry.name}/{entry.version}",
                                                              dst_path=scratch))
        files = bundle / "artifacts" / "embedder"
        check(entry, files, bundle / "code")
        code = embedder.code_of(files) if any(name.startswith(_CODE) for name in entry.tags) else ()
        if code:
            sys.path.append(str(bundle / "code"))  # a network of a user's own is found there, if not here
        found = Embedder.load(files, memory_gib, code=code)
        yield Opened(found, entry.name, entry.version, entry.tags[_FILES], entry.tags)


def code_tags(code: tuple[Path, ...]) -> dict[str, str]:
    """A tag a package or module that an embedder brings along: the digest of its files."""
    return {f"{_CODE}{path.name}": _code_digest(path) for path in code}


def check(entry: registry.Entry, files: Path, code: Path) -> None:
    """RegistryError unless `files` and the user's part of `code` are, byte for byte, what `entry` was made from."""
    recorded = entry.tags.get(_FILES)
    if recorded is None:
        raise registry.RegistryError(f"{entry.reference} has no tag {_FILES} to hold its files against; register it "
                                     "again with `nfk registry register FAMILY`")
    parts = {_FILES: (recorded, embedder.digest(files))}
    for tag, digest in entry.tags.items():
        if tag.startswith(_CODE):
            name = tag.removeprefix(_CODE)
            if name in ("", "..") or Path(name).name != name:
                raise registry.RegistryError(f"{entry.reference}: the tag {tag!r} names no file of its own; register "
                                             "it again")
            parts[tag] = (digest, _code_digest(code / name))
    for tag, (wanted, found) in parts.items():
        if wanted != found:
            raise registry.RegistryError(
                f"{entry.reference}: {tag} is {found[:12]}, {wanted[:12]} was registered: files were changed since; "
                "nothing of them was loaded; `nfk registry rebuild` tells whether it can be made again")


def _code_digest(path: Path) -> str:
    """Of a module's file, or of all files of a package. Compiled ones count where there are any: at registration
    MLflow leaves them out, so that one put there later is seen."""
    if path.is_file():
        return store.file_digest(path)
    return store.json_digest({str(file.relative_to(path)): store.file_digest(file)
                              for file in sorted(path.rglob("*")) if file.is_file()})
