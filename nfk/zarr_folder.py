"""Zarr's view of a store's folder: what it writes goes through `nfk.durable`, what it cannot find is no fill value."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from nfk import durable


class FilledFolder(LocalStore):
    """A folder being filled. It is nobody else's until it is whole, so each key is written once, in its place."""

    async def set(self, key: str, value: Buffer) -> None:
        path = self.root / key
        durable.make_folders(path.parent, lasting=False)  # the whole tree is synced later
        await asyncio.to_thread(durable.write, path, value.as_buffer_like())

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        if not (self.root / key).is_file():
            await self.set(key, value)

    async def delete(self, key: str) -> None:
        durable.remove(self.root / key)

    async def delete_dir(self, prefix: str) -> None:
        durable.remove_tree(self.root / prefix)

    async def clear(self) -> None:
        for entry in self.root.iterdir():
            durable.remove_tree(entry)


class WholeFolder(LocalStore):
    """A whole store's folder, for reading: a file of the manifest that is gone raises `absent(key)`, where Zarr would
    give fill values."""

    def __init__(self, root: Path, files: frozenset[str], absent: Callable[[str], Exception]) -> None:
        super().__init__(root, read_only=True)
        self._files, self._absent = files, absent

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        return self._there(key, await super().get(key, prototype, byte_range))

    def _there(self, key: str, found: Buffer | None) -> Buffer | None:
        if found is None and key in self._files:
            raise self._absent(key)
        return found
