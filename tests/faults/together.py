"""Several at once in one workspace: one works, the others are refused in one line or wait, and nothing is half done.

    python -m tests.faults.together               all of it, into tests/faults/results/together.json
    python -m tests.faults.together --part flows  one part: stores, promotions, turns, flows, stages or embeds

Writers of one store and promotions of one family; `nfk repro`, flows, stages, and `dvc repro` by hand, on a pipeline
whose stages show any interleaving, and on the real stages at a size of seconds; the real `embed` over one name.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from nfk import registry, store
from nfk.params import TrackingParams
from tests.faults.kills import ROOT, STORES, Workspace
from tests.faults.promoters import crowned, promoters
from tests.faults.tally import Tally

RESULTS = Path(__file__).parent / "results" / "together.json"
ROUNDS = 5
_SECONDS = 280.0

# --- writers of one store ---


def _writes(number: int, folder: str, rounds: int, start: Any, answers: Any) -> None:
    """Writes a store of its own number in each round, at one moment with the others."""
    for place in range(rounds):
        start.wait()
        said = ""
        try:
            with store.write(Path(folder) / f"{place}.zarr", inputs={"data": str(number)}) as writer:
                writer.put("embedding", np.full((512, 8), number, np.float32))
        except (store.StoreError, OSError) as error:
            said = str(error)
        answers.put((place, number, said))


def writers(count: int, rounds: int) -> list[str | None]:
    """Of each round, why it was lost, or None."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="nfk-writers-") as folder:
        start, answers = context.Barrier(count), context.Queue()
        processes = [context.Process(target=_writes, args=(number, folder, rounds, start, answers))
                     for number in range(count)]
        for process in processes:
            process.start()
        said: list[dict[int, str]] = [{} for _ in range(rounds)]
        for _ in range(count * rounds):
            place, number, words = answers.get(timeout=_SECONDS)
            said[place][number] = words
        for process in processes:
            process.join()
        return [_wrong_store(Path(folder) / f"{place}.zarr", said[place]) for place in range(rounds)]


def _wrong_store(path: Path, said: Mapping[int, str]) -> str | None:
    wrote = [number for number, words in said.items() if not words]
    if not wrote:
        return f"none wrote: {sorted(set(said.values()))}"
    if bad := [words for words in said.values() if words and (
            "\n" in words or "another process is writing it" not in words)]:
        return f"refused otherwise: {bad}"
    found = store.read(path)
    if int(found.inputs["data"]) not in wrote or not (found["embedding"][:] == int(found.inputs["data"])).all():
        return f"the store is of {found.inputs['data']}, written by {wrote}"
    left = [file.name for file in path.parent.glob(f".{path.name}.*")]
    return f"left over: {left}" if left else None


# --- promotions ---


class Interrupted:
    """A client of MLflow's that lets something happen just before its n-th call."""

    def __init__(self, client: Any, at: int, happens: Callable[[], None]) -> None:
        self._client, self._at, self._happens, self.calls = client, at, happens, 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == self._at:
                self._happens()
            return method(*arguments, **options)

        return call


def promotions(client: Any, first: int = 1, every: int = 1) -> Iterator[str | None]:
    """One promotion inside another, before its `first` call, and so on, the better first and the worse first; of each,
    why it was lost, or None. Before it there is a champion."""
    for outer, inner in ((0.93, 0.91), (0.91, 0.93)):
        for at in itertools.count(first, every):
            pair = registry.names(f"f{at}-{round(100 * outer)}")
            crowned(client, pair, (0.9, outer, inner))
            refused: list[str] = []

            def promoted(through: Any, version: int, pair: registry.entries.Names = pair,
                         refused: list[str] = refused) -> None:
                try:
                    registry.promote(through, f"{pair.embedder}/{version}")
                except registry.NotGoodEnough as verdict:
                    refused.append(str(verdict))

            through = Interrupted(client, at, lambda promoted=promoted: promoted(client, 3))
            promoted(through, 2)
            if through.calls < at:
                break
            champions = {entry.name: entry.version for name in pair for entry in registry.entries(client, name)
                         if registry.CHAMPION in entry.aliases}
            best = "2" if outer > inner else "3"
            if champions != {name: best for name in pair}:
                yield f"before call {at}, {inner} inside {outer}: the champions are {champions}, not {best}"
            elif len(refused) > 1 or any("\n" in words for words in refused):
                yield f"before call {at}, {inner} inside {outer}: {refused}"
            else:
                yield None


# --- pipelines ---

TURNS = """\
stages:
  first:
    cmd: python turn.py first
    deps: [turn.py]
    outs: [first.txt]
  second:
    cmd: python turn.py second
    deps: [first.txt, turn.py]
    outs: [second.txt]
"""
TURN = """\
import os, pathlib, sys, time
def tell(what):
    turns = os.open("turns", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(turns, f"{what} {sys.argv[1]} {os.getpid()}\\n".encode())
    os.close(turns)
tell("begin")
time.sleep(0.3)
pathlib.Path(f"{sys.argv[1]}.txt").write_text(sys.argv[1])
tell("end")
"""
NFK, DVC = [sys.executable, "-m", "nfk", "repro"], [sys.executable, "-m", "dvc", "repro"]
FLOW = [sys.executable, "-m", "flows.pipeline"]
WE_REFUSE = ("runs in this workspace", "works in this workspace", "another process is writing it")
DVC_REFUSES = ("is busy, it is being blocked by", "Unable to acquire lock")


@contextmanager
def holder(folder: Path) -> Iterator[int]:
    """A process that holds the workspace there, by its number; killed with the block."""
    code = ("import time\nfrom nfk.workspace_lock import workspace_lock\n"
            "with workspace_lock():\n    print('held', flush=True)\n    time.sleep(300)\n")
    with subprocess.Popen([sys.executable, "-c", code], cwd=folder, stdout=subprocess.PIPE, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
        try:
            if process.stdout is None or process.stdout.readline() != "held\n":
                raise RuntimeError("the workspace is not held")
            yield process.pid
        finally:
            process.kill()


class Ended(NamedTuple):
    command: str
    status: int
    out: str
    errors: str


class Turns(Workspace):
    """A pipeline of two stages that write down when they begin and end."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "dvc.yaml").write_text(TURNS)
        (folder / "turn.py").write_text(TURN)

    def clear(self) -> None:
        super().clear()
        for name in ("turns", "first.txt", "second.txt", "mlflow.db"):
            (self.folder / name).unlink(missing_ok=True)

    def wrong(self) -> str | None:
        lines = (self.folder / "turns").read_text().splitlines()
        for begin, end in zip(lines[::2], lines[1::2], strict=False):
            if not begin.startswith("begin") or end != begin.replace("begin", "end"):
                return f"interleaved: {lines}"
        if [line.split()[1] for line in lines] != ["first", "first", "second", "second"]:
            return f"not each once: {lines}"
        for name in ("first", "second"):
            if (self.folder / f"{name}.txt").read_text() != name:
                return f"{name}.txt is half"
        return None


class Stages(Workspace):
    """The real stages, from data to embeddings, at a size of seconds."""

    undisturbed: Mapping[str, str] | None = None

    def wrong(self) -> str | None:
        found = self.digests()
        if self.undisturbed is not None and found != self.undisturbed:
            return f"another digest: {[name for name in STORES if found[name] != self.undisturbed[name]]}"
        left = [str(path.relative_to(self.folder)) for path in self.folder.rglob("*.partial")]
        left += [path.name for path in (self.folder / ".nfk/scratch").glob("*")]
        return f"left over: {left}" if left else None


def at_once(workspace: Workspace, commands: Sequence[Sequence[str]], *, pause: float = 0.0,
            folders: Sequence[Path] = ()) -> list[Ended]:
    """All started together, or one after another's beginning; how each ended. folders: of each command its own."""
    processes = []
    for command, folder in zip(commands, folders or [workspace.folder] * len(commands), strict=True):
        processes.append(subprocess.Popen(
            command, cwd=folder, env=workspace.environment, stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True))
        time.sleep(pause)
    ended = []
    try:
        for command, process in zip(commands, processes, strict=True):
            out, errors = process.communicate(timeout=_SECONDS)
            ended.append(Ended(" ".join(command[2:]), process.returncode, out, errors))
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return ended


def wrong_ends(ended: Sequence[Ended]) -> str | None:
    """One has worked; each other has too, after it, or was refused: by us in one line with 2, or by DVC's lock in its
    own words, by which a run of ours fails too that had just begun."""
    if not any(one.status == 0 for one in ended):
        return f"none worked: {[(one.status, one.errors[-300:]) for one in ended]}"
    for one in ended:
        ours, said = not one.command.startswith("dvc"), one.out + one.errors
        if "Traceback" in said:
            return f"{one.command}: a trace: {one.errors[-600:]}"
        if one.status == 0 or any(words in said for words in DVC_REFUSES):
            continue
        if not ours or one.status != 2:
            return f"{one.command} ended with {one.status}: {said[-600:]}"
        lines = [line for line in one.errors.splitlines()  # ours: what Prefect logs of the run has a time before it
                 if any(words in line for words in WE_REFUSE) and not line[:2].isdigit()]
        if len(lines) != 1 or (one.command.startswith("nfk") and one.errors.count("\n") != 1):
            return f"{one.command}: not refused in one line: {one.errors[-600:]}"
    return None


def pipelines(workspace: Turns | Stages, commands: Sequence[Sequence[str]], *, pause: float = 0.0,
              again: Sequence[str] = ()) -> str | None:
    """`commands` at once from nothing; why it was lost, or None. again: a command that completes what the one that
    worked may not have been asked for."""
    workspace.clear()
    ended = at_once(workspace, commands, pause=pause)
    why = wrong_ends(ended)
    if why is None and again:
        last, = at_once(workspace, [again])
        why = None if last.status == 0 else f"afterwards: {last.errors[-600:]}"
    return why or workspace.wrong()


def neighbour(workspace: Stages) -> Path:
    """A second workspace with all that embeddings are made from, whose embeddings are those of the first: of two
    stages there neither meets the other's lock, only what the store itself holds."""
    folder = workspace.folder.parent / "neighbour"
    shutil.copytree(workspace.folder, folder, ignore=shutil.ignore_patterns("embeddings"))
    (folder / "embeddings").symlink_to(workspace.folder / "embeddings")
    return folder


def embeds(workspace: Stages, pause: float, folders: Sequence[Path] = ()) -> str | None:
    """Two real `embed` stages at once that write one name; why it was lost, or None."""
    shutil.rmtree(workspace.folder / STORES[-1], ignore_errors=True)
    command = [sys.executable, "-m", "nfk", "embed", "classifier"]
    return wrong_ends(at_once(workspace, [command] * 2, pause=pause, folders=folders)) or workspace.wrong()


@contextmanager
def prefect_server(workspace: Workspace) -> Iterator[None]:
    """A server for the flows of `workspace`, on a free port; ended with the block."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workspace.environment |= {
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PREFECT_HOME": str(workspace.folder.parent / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "true"}
    with (workspace.folder.parent / "prefect.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env=workspace.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 180
        while True:
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=2).close()
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((workspace.folder.parent / "prefect.log").read_text()[-2000:])
            time.sleep(0.2)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


_EMBEDDED = "embed@classifier"


def undisturbed(folder: Path) -> Stages:
    """A workspace of the real stages, run to its embeddings once."""
    small = Stages(folder)
    small.clear()
    (alone,) = at_once(small, [[*NFK, _EMBEDDED]])
    if alone.status != 0:
        raise RuntimeError(f"the undisturbed run failed: {alone.errors[-1000:]}")
    small.undisturbed = small.digests()
    return small


def main(
    part: Annotated[list[str] | None, typer.Option(help="only this one: stores, promotions, turns, flows, stages, "
                                                         "embeds")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="of pipelines; of writers and promotions 20 times as "
                                               "many, of embeds 4 times")] = ROUNDS,
) -> None:
    """Try all, print what was lost, write the results; a part alone replaces its own rows."""
    tally = Tally(RESULTS)
    parts = part or ["stores", "promotions", "turns", "flows", "stages", "embeds"]
    folder = Path(tempfile.mkdtemp(prefix="nfk-together-"))
    try:
        if "stores" in parts:
            for count in (2, 4):
                tally.tell(f"{count} writers of one store", writers(count, 20 * rounds))
            with registry.connect(TrackingParams(uri=f"sqlite:///{folder}/mlflow.db")) as client:
                tally.tell("a promotion inside another", list(promotions(client)))
        if "promotions" in parts:
            for count in (2, 4):
                found = promoters(count, 20 * rounds)
                print(f"in {sum(each.met for each in found)} of {len(found)} two ran at the same moment", flush=True)
                tally.tell(f"{count} processes that promote, against a server", [each.why for each in found])
        turns = Turns(folder / "turns") if {"turns", "flows"} & set(parts) else None
        if turns is not None and "turns" in parts:
            for count in (2, 4):
                tally.tell(f"{count} `nfk repro`", [pipelines(turns, [NFK] * count) for _ in range(rounds)])
            tally.tell("`dvc repro` by hand beside `nfk repro`", [
                pipelines(turns, commands, pause=pause, again=NFK)
                for pause in np.linspace(0, 2, -(-rounds // 2)) for commands in ([NFK, DVC], [DVC, NFK])])
        if turns is not None and "flows" in parts:
            with prefect_server(turns):
                for count in (2, 4):
                    tally.tell(f"{count} flows", [pipelines(turns, [FLOW] * count)])
                tally.tell("`dvc repro` by hand beside a flow", [
                    pipelines(turns, [FLOW, DVC], pause=pause, again=NFK) for pause in (0.0, 4.0)])
        small, goal = undisturbed(folder / "stages") if {"stages", "embeds"} & set(parts) else None, _EMBEDDED
        if small is not None and "embeds" in parts:
            begun = time.monotonic()
            if (why := embeds(small, 0.0)) is not None:
                raise RuntimeError(f"the first two failed: {why}")
            pauses = np.linspace(0, time.monotonic() - begun, 4 * rounds)  # as far apart as one takes
            tally.tell("2 `nfk embed` of one name", [embeds(small, pause) for pause in pauses])
            folders = [small.folder, neighbour(small)]
            tally.tell("2 `nfk embed` of one name, from two workspaces",
                       [embeds(small, pause, folders) for pause in pauses])
        if small is not None and "stages" in parts:
            tally.tell("4 `nfk repro` of the real stages", [pipelines(small, [[*NFK, goal]] * 4)])
            data = [sys.executable, "-m", "nfk", "data"]
            tally.tell("4 `nfk data`, then all", [pipelines(small, [data] * 4, again=[*NFK, goal])])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    raise SystemExit(bool(tally.wrong))


if __name__ == "__main__":
    typer.run(main)
