"""A workspace for one run alone: a clone of the committed project, with the project's DVC cache."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from flows.process_group import run_streamed
from nfk import durable, tracking
from nfk import params as parameters

_UNTRACKED = 3  # of `nfk repro`: results are whole, records wait
_REPLAY_SECONDS = 60.0
_OWN = frozenset({"params.yaml", "dvc.lock"})  # may differ from the commit: who runs writes the one, DVC the other


class WorkspaceRefused(ValueError):
    """No workspace can be made; the message is one line."""


class StagesFailed(RuntimeError):
    """The stages of one workspace ended with an error; others go on."""


def prepare(folder: Path, commit: str, params: str) -> None:
    """The project at `commit` in `folder`, with `params` and the project's DVC cache."""
    from dvc.repo import Repo

    if not (folder / ".git").exists():
        durable.make_folders(folder.parent)
        _git("clone", "--quiet", "--no-checkout", str(Path.cwd()), str(folder))
    _git("fetch", "--quiet", "origin", commit, folder=folder)
    _git("checkout", "--quiet", "--force", "--detach", commit, folder=folder)
    with Repo() as project:
        cache = project.cache.local.path
    durable.write_whole(folder / ".dvc/config.local", f"[cache]\n    dir = {cache}\n".encode())
    durable.write_whole(folder / "params.yaml", params.encode())


def run_stages(folder: Path, say: Callable[[str], None], *, seconds: float) -> None:
    """`nfk repro` in the workspace, by the workspace's own code; StagesFailed with its last line."""
    path = os.pathsep.join(filter(None, (str(folder.resolve()), os.environ.get("PYTHONPATH"))))
    tracker = _absolute(tracking.tracking_uri(parameters.load().tracking))
    environment = {"PYTHONPATH": path, "MLFLOW_TRACKING_URI": tracker, tracking.ENVIRONMENT_VARIABLE: ""}
    ended = run_streamed([sys.executable, "-m", "nfk", "repro"], say, seconds=seconds, environment=environment,
                         folder=folder)
    if ended.timed_out:  # so its end sent nothing; the workspace may never be run again
        run_streamed([sys.executable, "-m", "nfk", "track", "replay"], say, seconds=_REPLAY_SECONDS,
                     environment=environment, folder=folder)
        raise StagesFailed(f"{folder.name}: ran longer than seconds={seconds:g}")
    if ended.status not in (0, _UNTRACKED):
        raise StagesFailed(f"{folder.name}: failed with exit status {ended.status}: {ended.last_line}; "
                                f"`cd {folder} && nfk repro` repeats it alone")


def committed(results: str | None = None) -> str:
    """HEAD; WorkspaceRefused where tracked files differ from it, since the clones would not have the difference. Files
    of the folder `results` may."""
    changed = [line[3:] for line in _git("status", "--porcelain", "--untracked-files=no").splitlines()]
    if others := [name for name in changed if name not in _OWN and not (results and name.startswith(f"{results}/"))]:
        raise WorkspaceRefused(f"{others[0]} has changes that no commit holds: clones run what is committed; commit or "
                           "stash them")
    return _git("rev-parse", "HEAD").strip()


def _git(*arguments: str, folder: Path = Path()) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise WorkspaceRefused(f"`git {arguments[0]}` failed: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout


def _absolute(uri: str) -> str:
    """A SQLite file named from here, for processes that run elsewhere."""
    scheme, three, path = uri.partition(":///")
    return f"{scheme}{three}{Path(path).resolve()}" if scheme == "sqlite" and path else uri
