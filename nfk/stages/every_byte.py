"""The stores and DVC's cache, every byte held against its digest: a read of all of them.

DVC takes a file of its cache for whole by its name (treeverse/dvc#9641): it would bring a damaged one back, and push
it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nfk import store
from nfk.params import Params
from nfk.stages import workspace


class Checked(NamedTuple):
    """A store, or all of the cache; a fault where there is a remedy."""

    what: str
    found: str
    remedy: str = ""


def checked(params: Params) -> Iterator[Checked]:
    for path in stores(params):
        try:
            store.read(path)
        except store.StoreError as error:
            yield Checked("stores", str(error), f"rm -r {path}, then `nfk repro`")
        else:
            yield Checked("stores", f"{path}: every byte as it was written")
    yield from _cache()


def stores(params: Params) -> list[Path]:
    """Those that are there."""
    paths = [workspace.data_store(params), *(
        of(family) for family in params.families
        for of in (workspace.statistics_store, workspace.factors_store, workspace.embeddings_store))]
    return [path for path in paths if path.exists()]


def _cache() -> Iterator[Checked]:
    """DVC's own cache: a file's name there is the MD5 of its bytes."""
    from dvc.repo import Repo

    if not Path(".dvc").is_dir():
        return
    with Repo() as repo:
        files = sorted(file for file in Path(repo.cache.local.path).glob("??/*") if file.is_file())
    whole = 0
    for file in files:
        with file.open("rb") as content:
            found = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found == (file.parent.name + file.name).removesuffix(".dir"):
            whole += 1
        else:
            yield Checked("cache", f"{file}: its MD5 is {found}, and by its name another",
                          "rm it, then `dvc fetch` where a remote has it, or `dvc commit` where the workspace has it")
    yield Checked("cache", f"{whole:,} of {len(files):,} files of DVC's cache: every byte as their names say")
