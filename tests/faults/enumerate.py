"""Every durable operation of the pipeline fails, and is the last one before a power cut; then the run goes on.

    python -m tests.faults.enumerate            all of it, into tests/faults/results/durable_operations.json
    python -m tests.faults.enumerate --every 17 each 17th point

The results are written after each case, and say how many points were left out.

For n = 1, 2, 3, ... until a run comes through clean: the n-th operation fails once, fails with all after it (EIO,
ENOSPC, a short write), or is the last one, with what was not synced kept, dropped, torn or emptied
(`tests.faults.disk`). Cases: each stage into an empty place and over an older store, and the spool. Compound points:
after each operation's cut the next run meets a second fault, at places that move on by seven.

A point is survived if
1. the fault is told as an OSError (or does not matter),
2. the store is then absent, says that it is unfinished, or is whole, old or new; a failure leaves the old one; what
   earlier stages made is untouched,
3. the next run ends, with the undisturbed run's digest,
4. at most one block a fault was computed twice (once the result is whole a run begins anew),
5. and nothing is left over after it: no half file, no scratch.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple, Protocol

import typer

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

from nfk import durable, store
from nfk.tracking import spool
from nfk.tracking.record import StageRecord
from tests.faults import pipeline
from tests.faults.disk import CUTS, FAILURES, Fault, FaultyDisk, Kind, applies

RESULTS = Path(__file__).parent / "results" / "durable_operations.json"


class Lost(AssertionError):
    """A point that was not survived."""


class Case(Protocol):
    """One thing that writes, and what must be true of it."""

    name: str
    blocks: int

    def prepare(self) -> None:
        """The workspace as it is before."""

    def run(self) -> None: ...

    def check_between(self, *, ended: bool) -> None:
        """Lost unless the state is one that may be; `ended`: by a failure, not a cut."""

    def whole(self) -> bool:
        """Whether the result is there."""

    def check_after(self) -> None:
        """Lost unless the state is the undisturbed run's, and nothing is left over."""

    def check_blocks(self, faults: int) -> None: ...


@dataclass
class StageCase:
    """A stage, its earlier ones done."""

    stage: str
    counter: pipeline.Blocks
    older: bool
    blocks: int = 0
    final: str = ""
    old: str | None = None
    upstream: dict[str, str | None] = field(default_factory=dict)
    _between: str | None = None

    @property
    def name(self) -> str:
        return f"{self.stage}, {'over an older store' if self.older else 'into an empty place'}"

    def learn(self) -> None:
        """The undisturbed runs: of an older seed, if there is to be one, and of this one."""
        self.upstream = {name: pipeline.found(name) for name in pipeline.STAGES[:pipeline.STAGES.index(self.stage)]}
        place = pipeline.STORES[self.stage]
        if self.older:
            with store.write(place, inputs={}) as writer:
                writer.attributes["an older"] = "store"
            self.old = pipeline.found(self.stage)
            shutil.copytree(place, self._kept)
        self.prepare()
        pipeline.run(self.stage, pipeline.settings())
        self.blocks, self.final = self.counter.done, pipeline.found(self.stage) or ""

    @property
    def _kept(self) -> Path:
        return Path("kept") / self.stage

    def prepare(self) -> None:
        self.counter.done, self._between = 0, self.old
        place = pipeline.STORES[self.stage]
        shutil.rmtree(place.parent, ignore_errors=True)
        shutil.rmtree(".nfk/scratch", ignore_errors=True)
        if self.older:
            place.parent.mkdir(parents=True)
            shutil.copytree(self._kept, place)
        elif self.stage != "data":
            place.parent.parent.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        pipeline.run(self.stage, pipeline.settings())

    def whole(self) -> bool:
        return pipeline.found(self.stage) == self.final

    def check_between(self, *, ended: bool) -> None:
        before, found = self._between, pipeline.found(self.stage)  # a damaged one raises StoreError
        self._between = found
        # what a cut moved aside comes back with the next run, unless that operation is the one to fail
        allowed = [self.final, self.old] if ended and before is not None else [self.final, self.old, None]
        if found == self.final:  # there is nothing to resume: what follows is a new run
            self.counter.done = 0
        if found not in allowed:
            raise Lost(f"the store is {found}, which is none of {allowed}")
        for name, digest in self.upstream.items():
            if pipeline.found(name) != digest:
                raise Lost(f"the store of {name} changed")

    def check_after(self) -> None:
        if (found := pipeline.found(self.stage)) != self.final:
            raise Lost(f"the digest is {found}, undisturbed it is {self.final}")
        if left := pipeline.left_overs():
            raise Lost(f"left over: {', '.join(left)}")

    def check_blocks(self, faults: int) -> None:
        # the data stage keeps nothing of an unfinished pass over its source, which must be read whole to be held
        # against its digest: its begun passes are all it can lose
        most = self.blocks * (1 + faults) if self.stage == "data" else self.blocks + faults
        if self.counter.done > most:
            raise Lost(f"{self.counter.done} blocks computed, undisturbed {self.blocks}")


class SpoolCase:
    """A record with a figure takes the place of an earlier one of its id, and is sent."""

    name, blocks = "spool, a record replaced", 0

    def learn(self) -> None:
        Path("figure.png").write_bytes(b"picture" * 100)

    def prepare(self) -> None:
        shutil.rmtree(".nfk", ignore_errors=True)
        spool.add(self._record("FAILED"))

    def run(self) -> None:
        spool.add(self._record("FINISHED"))

    def check_between(self, *, ended: bool) -> None:
        statuses = [self._whole(entry) for entry in spool.entries()]
        if not statuses or not set(statuses) <= {"FAILED", "FINISHED"} or len(statuses) > 2:
            raise Lost(f"entries: {statuses}")

    def whole(self) -> bool:
        return "FINISHED" in [self._whole(entry) for entry in spool.entries()]

    def check_after(self) -> None:
        statuses = [self._whole(entry) for entry in spool.entries()]
        if statuses != ["FINISHED"]:
            raise Lost(f"entries: {statuses}")
        spool.remove(spool.entries()[0])
        spool._STALE_SECONDS, kept = -1.0, spool._STALE_SECONDS
        with spool.sending(wait=0.0):
            pass
        spool._STALE_SECONDS = kept
        if left := [path.name for path in spool.SPOOL.iterdir() if path.name != ".lock"]:
            raise Lost(f"left over: {', '.join(left)}")

    def check_blocks(self, faults: int) -> None:
        pass

    @staticmethod
    def _record(status: str) -> StageRecord:
        from datetime import UTC, datetime

        return StageRecord(stage="svd", family="gan", started=datetime(2026, 1, 1, tzinfo=UTC), status=status,
                           figures=(Path("figure.png"),), id="record")

    @staticmethod
    def _whole(entry: Path) -> str:
        record = spool.read(entry)
        if [file.read_bytes() for file in (entry / "figures").iterdir()] != [b"picture" * 100]:
            raise Lost(f"{entry}: half a figure")
        return record.status


class Point(NamedTuple):
    """Faults, the first in a run and each further one in the run after it."""

    case: str
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        return f"{self.case}: " + ", then ".join(
            f"operation {fault.at} {fault.kind}{' from then on' if fault.lasting else ''}" for fault in self.faults)


class Enumeration:
    """`try_all` yields each point with why it was lost, or None."""

    def __init__(self, root: Path) -> None:
        self.root, self.aside = root, root.with_name(f"{root.name}-aside")

    def disk(self, fault: Fault | None = None) -> FaultyDisk:
        return FaultyDisk(self.root, self.aside, fault)

    def operations(self, case: Case) -> list[str]:
        """What an undisturbed run does, in order."""
        case.prepare()
        with self.disk().in_use() as disk:
            case.run()
        return disk.told

    def points(self, case: Case) -> Iterator[Point]:
        """Faults one at a time, then by twos."""
        told = self.operations(case)
        for at, operation in enumerate(told, 1):
            for kind, lasting in [*itertools.product(FAILURES, (False, True)), *((kind, False) for kind in CUTS)]:
                if applies(kind, operation.partition(" ")[0]):
                    yield Point(case.name, (Fault(at, kind, lasting),))
        firsts: itertools.cycle[Kind] = itertools.cycle(CUTS)
        seconds: itertools.cycle[Kind] = itertools.cycle(
            ("dropped", "EIO", "torn", "ENOSPC", "kept", "emptied", "short"))
        for at in range(1, len(told) + 1):
            yield Point(case.name, (Fault(at, next(firsts)), Fault(7 * at % len(told) + 1, next(seconds))))

    def attempt(self, case: Case, point: Point) -> str | None:
        """Why the point was lost, or None."""
        case.prepare()
        try:
            for fault in point.faults:
                clean = False
                with self.disk(fault).in_use() as disk, suppress(OSError):
                    case.run()
                    clean = True
                case.check_between(ended=not disk.cut and not fault.lasting)
                if clean and not case.whole():
                    raise Lost("the run ended well without its result")
            with self.disk().in_use():
                case.run()
            case.check_after()
            case.check_blocks(len(point.faults))
        except (Exception, Lost) as fault:
            return f"{type(fault).__name__}: {fault}"
        return None


@contextmanager
def cases() -> Iterator[tuple[Enumeration, list[Case]]]:
    """A workspace in memory, with data, network and all stores made once."""
    memory = Path("/dev/shm")
    before, root = Path.cwd(), Path(tempfile.mkdtemp(prefix="nfk-faults-", dir=memory if memory.is_dir() else None))
    os.chdir(root)
    syncless = durable.Disk.sync
    durable.Disk.sync = lambda *_: None  # type: ignore[method-assign]  # the cut decides what was synced
    try:
        with pipeline.warm() as blocks:
            pipeline.images()
            for stage in ("data", "pretrain", *pipeline.STAGES[1:]):
                with open(os.devnull, "w") as quiet, _stderr(quiet):
                    pipeline.run(stage, pipeline.settings())
            found: list[Case] = []
            for stage in pipeline.STAGES:
                for older in (False, True):
                    found.append(StageCase(stage, blocks, older))
            found.append(SpoolCase())
            yield Enumeration(root), found
    finally:
        durable.Disk.sync = syncless  # type: ignore[method-assign]
        os.chdir(before)
        shutil.rmtree(root, ignore_errors=True)
        shutil.rmtree(f"{root}-aside", ignore_errors=True)


@contextmanager
def _stderr(to: object) -> Iterator[None]:
    before, sys.stderr = sys.stderr, to  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stderr = before


def main(every: Annotated[int, typer.Option(min=1, help="each so-manieth point")] = 1) -> None:
    """Try all, print what was lost, write the results."""
    from tests.benchmarks.environment import environment

    rows, lost, begun = [], [], time.time()
    with cases() as (enumeration, found):
        for case in found:
            case.learn()
            points = list(enumeration.points(case))[::every]
            failed = []
            for point in points:
                if (why := enumeration.attempt(case, point)) is not None:
                    failed.append(f"{point}: {why}")
                    print(failed[-1], flush=True)
            for label, count in (("single", 1), ("compound", 2)):
                tried = [point for point in points if len(point.faults) == count]
                these = {str(point) for point in tried}
                bad = sum(any(line.startswith(name + ": ") for name in these) for line in failed)
                rows.append({"case": case.name, "faults": label, "tried": len(tried), "survived": len(tried) - bad})
            lost += failed
            print(f"{case.name}: {len(points)} points, {len(failed)} lost, {time.time() - begun:.0f} s", flush=True)
            with suppress(FileNotFoundError):
                shutil.rmtree(".nfk/scratch")
            case.prepare()
            case.run()
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps({
                "environment": environment(), "seconds": round(time.time() - begun), "every": every,
                "complete": case is found[-1], "rows": rows, "lost": lost}, indent=1) + "\n")
    raise SystemExit(bool(lost))


if __name__ == "__main__":
    typer.run(main)
