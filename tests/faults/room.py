"""Too little room: a disk that fills, one that cannot be written, scratch on another, and too little memory.

    python -m tests.faults.room                  all of it, into tests/faults/results/room.json
    python -m tests.faults.room --part limits    one part: disk, budget or limits
    python -m tests.faults.room --every 8        each eighth size, nothing written

Survived means: one line says what is wanting, earlier results are whole, and once there is room the same command ends
on the undisturbed run's digest with at most one block made twice. Full and read-only disks are real file systems in
memory, which only root can mount; anyone else's are a limit on a file's size and a folder without its write bit.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import psutil
import typer

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

from nfk import store
from nfk.fisher import strategies
from nfk.one_line import OneLine
from nfk.stages import svd, workspace
from tests.faults import pipeline
from tests.faults.kills import Workspace
from tests.faults.tally import Tally

RESULTS = Path(__file__).parent / "results" / "room.json"
_PAGE = 4096
_AMPLE = 64 << 20
_SECONDS = 280.0


class Lost(AssertionError):
    """What was not survived."""


# --- file systems ---


def can_mount() -> bool:
    """Whether this process may mount a file system in memory."""
    with tempfile.TemporaryDirectory(prefix="nfk-room-") as folder:
        done = subprocess.run(["mount", "-t", "tmpfs", "none", folder], capture_output=True)
        if done.returncode == 0:
            subprocess.run(["umount", folder], check=True)
        return done.returncode == 0


@contextmanager
def mounted(folder: Path, size: int = _AMPLE) -> Iterator[None]:
    """A file system of its own at `folder`, in memory; gone with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


@contextmanager
def small_disk(folder: Path, room: int) -> Iterator[None]:
    """`room` bytes more than are used now, on the file system mounted at `folder`."""
    found = os.statvfs(folder)
    used = (found.f_blocks - found.f_bfree) * found.f_frsize
    remount(folder, f"size={used + room}")
    try:
        yield
    finally:
        remount(folder, f"size={_AMPLE}")


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def unwritable(folder: Path, *, mount: bool) -> Iterator[None]:
    """A folder that takes no new files."""
    folder.mkdir(parents=True, exist_ok=True)
    if mount:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", folder], check=True)
    else:
        folder.chmod(0o555)
    try:
        yield
    finally:
        if mount:
            subprocess.run(["umount", "--lazy", folder], check=True)
        else:
            folder.chmod(0o755)


# --- stages without room ---


class Room:
    """The small pipeline of `tests.faults.pipeline`, all stages done once, on a file system of its own."""

    def __init__(self, folder: Path, blocks: pipeline.Blocks, *, mount: bool) -> None:
        self.folder, self.blocks, self.mount = folder, blocks, mount
        if not Path("source").is_dir():  # a workspace that another test has used has all of it
            pipeline.images()
            for stage in ("data", "pretrain", *pipeline.STAGES[1:]):
                pipeline.run(stage, pipeline.settings())
        self.final = {stage: pipeline.found(stage) for stage in pipeline.STAGES}
        self.counts: dict[str, int] = {}
        for stage in pipeline.STAGES:
            self.forget(stage)
            pipeline.run(stage, pipeline.settings())
            self.counts[stage] = blocks.done

    def forget(self, stage: str) -> None:
        """As if `stage` had not run."""
        self.blocks.done = 0
        shutil.rmtree(pipeline.STORES[stage], ignore_errors=True)
        shutil.rmtree(".nfk/scratch", ignore_errors=True)

    def restore(self, stage: str) -> None:
        if pipeline.found(stage) != self.final[stage]:
            pipeline.run(stage, pipeline.settings())

    def without(self, stage: str, wanting: Any) -> str | None:
        """Run `stage` in the context `wanting`, then with room; "did" where it needed none, else None. Lost
        otherwise."""
        self.forget(stage)
        ended = None
        with wanting:
            try:
                pipeline.run(stage, pipeline.settings())
            except (OSError, OneLine) as fault:  # the latter: `data` asks beforehand what is free
                ended = str(fault)
        if ended is None:
            if pipeline.found(stage) != self.final[stage]:
                raise Lost(f"{stage} ended well without its result")
            return "did"
        if "\n" in ended or not ended:
            raise Lost(f"{stage}: not one line: {ended!r}")
        if (between := pipeline.found(stage)) not in (None, self.final[stage]):
            raise Lost(f"{stage}: the store is {between}")
        for earlier in pipeline.STAGES[:pipeline.STAGES.index(stage)]:
            if pipeline.found(earlier) != self.final[earlier]:
                raise Lost(f"{stage}: the store of {earlier} changed")
        pipeline.run(stage, pipeline.settings())
        if (found := pipeline.found(stage)) != self.final[stage]:
            raise Lost(f"{stage}: the digest is {found}, undisturbed it is {self.final[stage]}")
        if left := pipeline.left_overs():
            raise Lost(f"{stage}: left over: {', '.join(left)}")
        most = 2 * self.counts[stage] if stage == "data" else self.counts[stage] + 1
        if self.blocks.done > most and between is None:
            raise Lost(f"{stage}: {self.blocks.done} blocks computed, undisturbed {self.counts[stage]}")
        return None

    def sizes(self, stage: str) -> Iterator[str | None]:
        """Less and less wanting, from no room on; of each size that is too small why it was lost, or None."""
        for step in range(100_000):
            wanting = small_disk(self.folder, _PAGE * (step + 1)) if self.mount else small_files(512 * (step + 1))
            try:
                did = self.without(stage, wanting)
            except (Lost, store.StoreError, OSError) as fault:
                yield f"{step}: {type(fault).__name__}: {fault}"
                self.forget(stage)
                self.restore(stage)
                continue
            if did is not None:
                return
            yield None

    def read_only(self, stage: str) -> str | None:
        """Its output's folder takes no files."""
        self.forget(stage)
        folder = pipeline.STORES[stage].parent
        try:
            if self.without(stage, unwritable(folder, mount=self.mount)) is not None:
                return f"{stage}: written into a folder that takes nothing"
        except (Lost, store.StoreError, OSError) as fault:
            return f"{type(fault).__name__}: {fault}"
        return None

    def scratch_elsewhere(self) -> Iterator[str | None]:
        """Each stage with `.nfk` on another file system than its output."""
        aside = self.folder / "aside"
        Path(".nfk").rename(aside)
        with ExitStack() as stack:
            if self.mount:
                stack.enter_context(mounted(Path(".nfk")))
            else:
                elsewhere = Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir())
                real = stack.enter_context(tempfile.TemporaryDirectory(prefix="nfk-elsewhere-", dir=elsewhere))
                Path(".nfk").symlink_to(real)
            for stage in pipeline.STAGES:
                self.forget(stage)
                pipeline.run(stage, pipeline.settings())
                found = pipeline.found(stage)
                yield None if found == self.final[stage] else f"{stage}: the digest is {found}"
        Path(".nfk").rmdir() if self.mount else Path(".nfk").unlink()
        aside.rename(".nfk")


@contextmanager
def rooms(*, mount: bool) -> Iterator[Room]:
    before, folder = Path.cwd(), Path(tempfile.mkdtemp(prefix="nfk-room-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        if mount:
            stack.enter_context(mounted(folder))
        stack.callback(os.chdir, before)
        os.chdir(folder)
        stack.enter_context(patch("sys.stderr", stack.enter_context(open(os.devnull, "w"))))
        with pipeline.warm() as blocks:
            yield Room(folder, blocks, mount=mount)


# --- memory that is not given ---


def budgets() -> Iterator[str | None]:
    """The SVD with less and less of svd.memory_gib: by name each strategy fits or is refused in one line, and "auto"
    takes one that fits as long as there is one."""
    shape, machine = (20_000, 50_000), strategies.Machine(1e-4, 1e11, 5e10)
    for exponent in range(36, 15, -1):
        for part in (4, 3):
            budget = part * 2**exponent // 4
            plans = strategies.plans(shape, machine, rank=32, oversampling=8, passes=4, block_rows=256,
                                     memory_bytes=budget)
            fit = {plan.strategy for plan in plans if plan.bytes <= budget}
            for strategy in (*(plan.strategy for plan in plans), "auto"):
                wanted = bool(fit - {"jvp"}) if strategy == "auto" else strategy in fit
                try:
                    chosen = strategies.choose(plans, strategy, budget)
                except strategies.MemoryBudgetError as fault:
                    said = str(fault)
                    one = "\n" not in said and f"svd.strategy={strategy} needs" in said and "raise it, or lower" in said
                    yield None if one and not wanted else f"{strategy} within {budget}: {said}"
                else:
                    yield None if wanted and chosen.bytes <= budget else f"{strategy} within {budget}: {chosen}"


def another_strategy() -> Iterator[str | None]:
    """The stage itself, in a `Room`: with less memory another strategy, and the same singular values."""
    def section(**values: Any) -> dict[str, Any]:
        return {"rank": 2, "oversampling": 1, "passes": 4, "tolerance": 1e-6, "accept_unconverged": True, "block": 4,
                **values}

    values, taken, gib = [], [], 1.0
    with patch.object(svd, "told", lambda *_, **__: None):
        while True:
            shutil.rmtree(".nfk/scratch", ignore_errors=True)
            try:
                pipeline.run("svd", pipeline.settings(svd=section(strategy="auto", memory_gib=gib)))
            except strategies.MemoryBudgetError as fault:
                yield None if "\n" not in str(fault) else f"{gib:g} GiB: {fault}"
                break
            found = store.read(workspace.factors_store(pipeline.FAMILY))
            taken.append(found.attributes["strategy"])
            values.append(found["singular_values"][:])
            same = abs(values[-1] / values[0] - 1).max() < 1e-3
            yield None if same else f"{gib:g} GiB, {taken[-1]}: {values[-1]}, not {values[0]}"
            gib *= 0.8
        yield None if len(set(taken)) > 1 else f"one strategy for all: {taken[0]}"
        for strategy in sorted(set(taken)):
            try:
                pipeline.run("svd", pipeline.settings(svd=section(strategy=strategy, memory_gib=1e-9)))
            except strategies.MemoryBudgetError as fault:
                one = "\n" not in str(fault) and f"svd.strategy={strategy} needs" in str(fault)
                yield None if one else f"{strategy}: {fault}"
            else:
                yield f"{strategy} ran within 1e-9 GiB"


# --- memory that the system refuses ---


def limited(small: Workspace, command: Sequence[str], limit: int | None) -> tuple[int, str, int]:
    """`nfk COMMAND` with so many bytes of addresses; its status, what it said, the most it had of them."""
    def lower() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    process = subprocess.Popen([sys.executable, "-m", "nfk", *command], cwd=small.folder, stdin=subprocess.DEVNULL,
                               env=small.environment | {"OPENBLAS_NUM_THREADS": "1"}, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, preexec_fn=lower, start_new_session=True)
    most, deadline = 0, time.monotonic() + _SECONDS
    with suppress(psutil.Error):
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            most = max(most, watched.memory_info().vms)
            if time.monotonic() > deadline:
                process.kill()
            time.sleep(0.02)
    said = process.stdout.read() if process.stdout else ""
    return process.wait(), said, most


def limits(small: Workspace, tries: int, tell: Callable[[str, str | None], None]) -> None:
    """The SVD under a limit on its addresses, between what its start takes and what all of it takes."""
    goal, lock = small.folder / "factors/classifier.zarr", small.folder / "dvc.lock"
    done = subprocess.run([sys.executable, "-m", "dvc", "repro", "statistics@classifier"], cwd=small.folder,
                          env=small.environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"the undisturbed run failed: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    before = lock.read_bytes()
    start = limited(small, ("estimate", "--help"), None)[2]
    most = limited(small, ("svd", "classifier"), None)[2]
    wanted = store.read(goal).digest
    for place in range(tries):
        for folder in (goal, small.folder / ".nfk/scratch", small.folder / ".dvc/cache/runs"):
            shutil.rmtree(folder, ignore_errors=True)
        lock.write_bytes(before)
        limit = int(start + (most - start) * (0.3 + 0.69 * place / max(1, tries - 1)))
        status, said, _ = limited(small, ("repro", "svd@classifier"), limit)
        if status != 0:
            last = said.strip().splitlines()[-1:] or [""]
            told = "memory" in last[0] and last[0].startswith("nfk: ")
            tell("told", None if told else f"{limit / 2**20:.0f} MiB, status {status}: {last[0][:200]}")
        left = store.read(goal).digest if goal.exists() else None
        again = limited(small, ("repro", "svd@classifier"), None)
        found = store.read(goal).digest
        tell("resumed", None if again[0] == 0 and found == wanted and left in (None, wanted)
             else f"{limit / 2**20:.0f} MiB: {again[1][-300:]}")


def main(
    part: Annotated[list[str] | None, typer.Option(help="only this one: disk, budget or limits")] = None,
    every: Annotated[int, typer.Option(min=1, help="each so-manieth size of a full disk")] = 1,
    hard: Annotated[int, typer.Option(min=1, help="how many limits on addresses")] = 6,
) -> None:
    """Try all, print what was lost, write the results; a part alone replaces its own rows."""
    global _PAGE
    _PAGE *= every
    mount = can_mount()
    tally = Tally(RESULTS, keep=every == 1, mounted=mount)
    parts = part or ["disk", "budget", "limits"]
    if "disk" in parts or "budget" in parts:
        with rooms(mount=mount) as room:
            if "disk" in parts:
                for stage in pipeline.STAGES:
                    tally.tell(f"the disk fills in `{stage}`", list(room.sizes(stage)))
                tally.tell("the output's folder takes no files", [room.read_only(stage) for stage in pipeline.STAGES])
                tally.tell("scratch on another file system", list(room.scratch_elsewhere()))
            if "budget" in parts:
                tally.tell("`svd.memory_gib` below what a strategy needs", [*budgets(), *another_strategy()])
    if "limits" in parts:
        verdicts: dict[str, list[str | None]] = {"told": [], "resumed": []}
        with tempfile.TemporaryDirectory(prefix="nfk-limits-") as folder:
            limits(Workspace(Path(folder) / "nfk"), hard, lambda kind, why: verdicts[kind].append(why))
        tally.tell("memory refused by the system: told in one line", verdicts["told"])
        tally.tell("memory refused by the system: resumed to the same digest", verdicts["resumed"])
    raise SystemExit(bool(tally.wrong))


if __name__ == "__main__":
    typer.run(main)
