"""SIGKILL at random moments of a small pipeline under `dvc repro`, then the same command again, to the same digests.

    python -m tests.faults.kills --kills 200     goes on with the count in tests/faults/results/kills.json

A round makes the whole pipeline anew, from data to report, and kills it again and again until it comes through, at the
moments of a Poisson process over its whole length. Who dies is each in turn: the process group (as at a power cut), dvc
alone, or the stage alone. Survived means: no process of it is left, the next `dvc repro` starts without a hand's help,
and at the round's end every file made has the bytes of the undisturbed run's; but the report, which tells times.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from nfk import store

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results" / "kills.json"
KINDS = ("group", "dvc", "stage")
_A_ROUND = 10
"""kills at most; as many are to be expected over an undisturbed run's length"""
STORES = ("data/digits.zarr", "statistics/classifier.zarr", "factors/classifier.zarr", "embeddings/classifier.zarr")
MADE = ("data", "models", "statistics", "factors", "embeddings", "evaluation", "report")
_REPORT = Path("report/index.html")
_GONE_SECONDS = 60.0
"""in which a stage whose dvc was killed may still end by itself"""


class Workspace:
    """The project's tracked files, committed in a repository of their own, with parameters for seconds."""

    def __init__(self, folder: Path, also: tuple[str, ...] = ()) -> None:
        from tests.pipeline.conftest import TINY

        self.folder = folder
        tracked = ("nfk", "flows", "dvc.yaml", ".dvc", ".dvcignore", ".gitignore", "pyproject.toml", *also)
        listed = subprocess.run(["git", "ls-files", "-z", *tracked], cwd=ROOT, check=True, capture_output=True,
                                text=True).stdout
        for name in filter(None, listed.split("\0")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
        (folder / "params.yaml").write_text(TINY)
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("NFK_", "MLFLOW_"))},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(folder),
            "JAX_PLATFORMS": "cpu", "NFK_SAVE_SECONDS": "0", "MLFLOW_DISABLE_TELEMETRY": "true",
            "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(folder.parent / "programs")),
            "DVC_NO_ANALYTICS": "1",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1", "JAX_COMPILATION_CACHE_MAX_SIZE": str(1 << 30)}
        git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.invalid"]
        for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "all"]):
            subprocess.run([*git, *command], cwd=folder, check=True)

    def clear(self) -> None:
        """As before the first run; DVC's cache of runs goes too, or it would bring the results back."""
        for name in (*MADE, ".nfk", ".dvc/cache", ".dvc/tmp"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / "dvc.lock").unlink(missing_ok=True)

    def start(self, *targets: str) -> subprocess.Popen[bytes]:
        """`dvc repro` of those, or of all."""
        with (self.folder / "log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dvc", "repro", *targets], cwd=self.folder, env=self.environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-1500:]

    def digests(self) -> dict[str, str]:
        return {name: store.read(self.folder / name).digest for name in STORES}

    def contents(self) -> dict[str, str]:
        """Of each file made, its bytes' digest; of the report, that it is there."""
        return {str(path): "there" if path == _REPORT else hashlib.sha256((self.folder / path).read_bytes()).hexdigest()
                for path in (found.relative_to(self.folder) for name in MADE
                             for found in (self.folder / name).rglob("*") if found.is_file())}

    def processes(self) -> list[psutil.Process]:
        """All that run in the folder."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(self.folder):
                    found.append(process)
        return found


def kill(process: subprocess.Popen[bytes], kind: str) -> None:
    """SIGKILL to the group, to dvc, or to what dvc has started; to dvc where it has started nothing yet."""
    if kind == "group":
        os.killpg(process.pid, signal.SIGKILL)
        return
    victims = psutil.Process(process.pid).children(recursive=True) if kind == "stage" else []
    for victim in victims or [psutil.Process(process.pid)]:
        with suppress(psutil.NoSuchProcess):
            victim.kill()


def one_kill(workspace: Workspace, kind: str, seconds: float) -> tuple[bool, str | None]:
    """Start, kill after so many seconds; whether it had ended before, and what was left wrong."""
    process = workspace.start()
    with suppress(subprocess.TimeoutExpired):
        status = process.wait(seconds)
        return True, None if status == 0 else f"dvc repro ended with {status}: {workspace.log()}"
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        kill(process, kind)
    deadline = time.monotonic() + _GONE_SECONDS
    process.wait(_GONE_SECONDS)
    while left := workspace.processes():  # a stage that outlived its dvc holds its own lock, and ends by itself
        if time.monotonic() > deadline:
            commands = [" ".join(each.cmdline()[-4:]) for each in left]
            for each in left:
                with suppress(psutil.NoSuchProcess):
                    each.kill()
            return False, f"left running: {', '.join(commands)}"
        time.sleep(0.1)
    return False, None


def rounds(workspace: Workspace, wanted: int, draw: random.Random, tell: Any) -> None:
    """`tell(kind, fault)` of each kill, `wanted` in all; the faults of a round's end are told of its last kill."""
    workspace.clear()
    begun = time.monotonic()
    process = workspace.start()
    if process.wait() != 0:
        raise RuntimeError(f"the undisturbed run failed: {workspace.log()}")
    whole, undisturbed, done = time.monotonic() - begun, workspace.contents(), 0
    while done < wanted:
        workspace.clear()
        waiting: list[str] = []
        while True:
            kind = KINDS[(done + len(waiting)) % len(KINDS)]
            last = done + len(waiting) >= wanted or len(waiting) >= _A_ROUND
            ended, fault = one_kill(workspace, kind, 3600.0 if last else min(draw.expovariate(_A_ROUND / whole), whole))
            if not ended:
                waiting.append(kind)
            if fault is not None:
                tell(kind, fault)
                done += len(waiting)
                break
            if ended:
                found = workspace.contents()
                wrong = sorted(name for name in {*found, *undisturbed} if found.get(name) != undisturbed.get(name))
                for kind in waiting:
                    tell(kind, f"not as undisturbed: {', '.join(wrong)}" if wrong else None)
                done += len(waiting)
                break


def main(kills: Annotated[int, typer.Option(min=1, help="in all, those of earlier runs counted")] = 200) -> None:
    from tests.benchmarks.environment import environment

    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"seconds": 0, "rows": [], "lost": []}
    rows = {row["fault"]: row for row in before["rows"]} | {
        kind: {"fault": kind, "tried": 0, "survived": 0} for kind in KINDS
        if kind not in {row["fault"] for row in before["rows"]}}
    lost, begun = list(before["lost"]), time.time()

    def tell(kind: str, fault: str | None) -> None:
        rows[kind]["tried"] += 1
        rows[kind]["survived"] += fault is None
        if fault is not None:
            lost.append(f"{kind}: {fault}")
            print(lost[-1], flush=True)
        RESULTS.write_text(json.dumps({
            "environment": environment(), "seconds": round(before["seconds"] + time.time() - begun),
            "rows": [rows[each] for each in KINDS], "lost": lost}, indent=1) + "\n")
        print(kind, "survived" if fault is None else "lost", flush=True)

    count = sum(row["tried"] for row in rows.values())
    with tempfile.TemporaryDirectory(prefix="nfk-kills-") as folder:
        rounds(Workspace(Path(folder) / "nfk"), kills - count, random.Random(count), tell)
    raise SystemExit(bool(lost))


if __name__ == "__main__":
    typer.run(main)
