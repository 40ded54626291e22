"""A small store is damaged in every way, one at a time: each is found when it is read, or is provably harmless.

    python -m tests.faults.damage            every bit and every length of a 16 KiB store, into tests/faults/results/
    python -m tests.faults.damage --every 50 each 50th, nothing written

Found: `read` raises StoreError that names the store, and for a chunk its array and place. Harmless: all that can be
read of the store is what it was.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple
from unittest.mock import patch

import numpy as np
import typer

from nfk import store
from nfk.store import MARKER, StoreError

RESULTS = Path(__file__).parent / "results" / "damage.json"
_EMPTY = 2**64 - 1
"""How a shard's index says that a chunk is not there"""


class Damage(NamedTuple):
    """Files with other bytes (None: removed)."""

    kind: str
    name: str
    files: dict[str, bytes | None]


def make(path: Path, seed: int = 0) -> None:
    """A store of three arrays, 16 KiB, each in several shards of several chunks."""
    rng = np.random.default_rng(seed)
    with patch.object(store, "_CHUNK_BYTES", 1 << 10), patch.object(store, "_SHARD_BYTES", 1 << 12), \
            store.write(path, inputs={"data": f"{seed}" * 64}) as writer:
        writer.put("left", rng.random((256, 8)).astype(np.float32))
        writer.put("images", rng.integers(0, 256, (64, 8, 8, 1)).astype(np.uint8), compress=True)
        writer.put("labels", np.arange(512, dtype=np.int32))
        writer.attributes["rank"] = 8


def content(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def meaning(path: Path) -> tuple[object, ...]:
    """All that can be read of a store."""
    found = store.read(path)
    return (found.digest, dict(found.inputs), dict(found.attributes),
            {name: (array.shape, str(array.dtype), array[...].tobytes()) for name, array in found.arrays.items()})


def damages(before: dict[str, bytes], other: dict[str, bytes], every: int = 1) -> Iterator[Damage]:
    """Each damage; of bits and lengths each `every`-th."""
    counter = itertools.count()
    for name, body in before.items():
        for position, bit in itertools.product(range(len(body)), range(8)):
            if next(counter) % every == 0:
                yield Damage("bit flipped", name, {
                    name: body[:position] + bytes([body[position] ^ 1 << bit]) + body[position + 1:]})
        for length in range(len(body)):
            if next(counter) % every == 0:
                yield Damage("cut short", name, {name: body[:length]})
        yield Damage("longer by a byte", name, {name: body + b"\0"})
        yield Damage("removed", name, {name: None})
        yield Damage("zeros", name, {name: bytes(len(body))})
        if other[name] != body:
            yield Damage("another store's", name, {name: other[name]})
    chunks = [name for name in before if "/c." in name]
    for one, two in itertools.combinations(chunks, 2):
        if before[one] != before[two]:
            yield Damage("chunk files swapped", one, {one: before[two], two: before[one]})
    for name in chunks:
        for kind, index in _indices(before[name]):
            yield Damage(kind, name, {name: index})
    yield Damage("a file too many", "left/c.99.0", {"left/c.99.0": b"x"})
    yield Damage("marker of nothing", MARKER, {MARKER: b"{}"})
    yield Damage("marker of nothing", MARKER, {MARKER: b""})


def _indices(shard: bytes) -> Iterator[tuple[str, bytes]]:
    """The shard with each of its chunks gone, and with each two exchanged, its index's own checksum made right."""
    from google_crc32c import value

    for count in range(1, 64):
        size = 16 * count
        index, check = shard[-size - 4:-4], shard[-4:]
        if struct.pack("<I", value(index)) == check:
            break
    else:
        raise AssertionError("no index at the end of the shard")
    entries = [index[at:at + 16] for at in range(0, size, 16)]

    def rebuilt(changed: list[bytes]) -> bytes:
        joined = b"".join(changed)
        return shard[:-size - 4] + joined + struct.pack("<I", value(joined))

    for place in range(count):
        yield "chunk gone from its shard", rebuilt(
            [*entries[:place], struct.pack("<QQ", _EMPTY, _EMPTY), *entries[place + 1:]])
    for one, two in itertools.combinations(range(count), 2):
        changed = list(entries)
        changed[one], changed[two] = entries[two], entries[one]
        yield "chunks exchanged in their shard", rebuilt(changed)


def outcome(path: Path, damage: Damage, undamaged: tuple[object, ...]) -> str:
    """`found`, `harmless`, or what is wrong."""
    try:
        same = meaning(path) == undamaged
    except StoreError as error:
        said = str(error)
        array, is_chunk, place = damage.name.partition("/c.")
        named = str(path) in said and (not is_chunk or f"array {array}, chunk {place}" in said
                                       or damage.kind == "a file too many" or damage.kind == "chunk files swapped")
        return "found" if named else f"not named: {said}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "harmless" if same else "another content was read"


def attempt(path: Path, damage: Damage, before: dict[str, bytes], undamaged: tuple[object, ...]) -> str:
    """The outcome of one damage; the store is as before afterwards."""
    for name, body in damage.files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink() if body is None else file.write_bytes(body)
    try:
        return outcome(path, damage, undamaged)
    finally:
        for name in damage.files:
            if name in before:
                (path / name).write_bytes(before[name])
            else:
                shutil.rmtree((path / name).parent)


@contextmanager
def stores() -> Iterator[tuple[Path, dict[str, bytes], dict[str, bytes]]]:
    """A store, its bytes, and those of another of equal arrays."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="nfk-damage-", dir=memory if memory.is_dir() else None))
    try:
        make(folder / "one.zarr")
        make(folder / "other.zarr", seed=1)
        yield folder / "one.zarr", content(folder / "one.zarr"), content(folder / "other.zarr")
    finally:
        shutil.rmtree(folder)


def main(every: Annotated[int, typer.Option(min=1, help="each so-manieth bit and length")] = 1) -> None:
    """Try all, print what was missed, write the results."""
    begun, tried, survived, missed = time.time(), Counter(), Counter(), []
    with stores() as (path, before, other):
        undamaged = meaning(path)
        for damage in damages(before, other, every):
            tried[damage.kind] += 1
            how = attempt(path, damage, before, undamaged)
            survived[damage.kind] += how in ("found", "harmless")
            if how not in ("found", "harmless"):
                missed.append(f"{damage.kind} {damage.name}: {how}")
                print(missed[-1], flush=True)
        size = sum(map(len, before.values()))
    for kind, count in tried.items():
        print(f"{kind}: {survived[kind]:,} of {count:,}")
    if every == 1:
        from tests.benchmarks.environment import environment

        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps({
            "environment": environment(), "seconds": round(time.time() - begun), "bytes": size,
            "rows": [{"fault": kind, "tried": count, "survived": survived[kind]} for kind, count in tried.items()],
            "lost": missed}, indent=1) + "\n")
    raise SystemExit(bool(missed))


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    typer.run(main)
