"""Where a result comes from: the commit, the library versions, DVC's hashes of a stage's files."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from nfk.one_line import OneLine

LOCK_FILE = Path("dvc.lock")
_DISTRIBUTIONS = ("nfk", "jax", "flax", "optax", "numpy", "scikit-learn", "dvc")
_GIT_SECONDS = 10


class LockFault(OneLine):
    """dvc.lock is not what DVC writes; the message is one line."""


class StageHashes(NamedTuple):
    """DVC's hashes of what a stage read and wrote: path to `md5:...`."""

    deps: dict[str, str]
    outs: dict[str, str]

    def tags(self) -> dict[str, str]:
        return ({f"dvc.dep.{path}": value for path, value in self.deps.items()}
                | {f"dvc.out.{path}": value for path, value in self.outs.items()})


def provenance() -> dict[str, str]:
    """Tags every run carries: commit and whether files differ from it, versions, platform."""
    return git_state() | _versions() | {"platform": platform.platform(terse=True)}


def git_state() -> dict[str, str]:
    """`git.commit` and `git.dirty` of the working folder; empty outside of a repository or without git.

    dvc.lock is left out of `git.dirty`, since a pipeline rewrites it after every stage; of files that git does not
    know, only Python's count: data and results beside the code make no run another.
    """
    try:
        commit = _git("rev-parse", "HEAD").strip()
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)*dvc.lock")
        unknown = _git("ls-files", "--others", "--exclude-standard", "--", ":(top)*.py")
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"git.commit": commit, "git.dirty": str(bool(changed.strip() or unknown.strip())).lower()}


def dvc_hashes(stage: str, lock: Path = LOCK_FILE) -> StageHashes:
    """What dvc.lock says of `stage` (`svd@gan`); empty where there is no lock file or no such stage in it."""
    return all_dvc_hashes(lock).get(stage, StageHashes({}, {}))


def all_dvc_hashes(lock: Path = LOCK_FILE) -> dict[str, StageHashes]:
    """What dvc.lock says of every stage in it. LockFault where it is damaged, as by two branches that were merged."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if not lock.exists():
        return {}
    try:
        stages = (YAML(typ="safe", pure=True).load(lock.read_text(encoding="utf-8")) or {}).get("stages") or {}
        return {str(name): StageHashes(_hashes(stage.get("deps")), _hashes(stage.get("outs")))
                for name, stage in stages.items()}
    except (YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise LockFault(f"{lock}: is not what DVC writes ({' '.join(str(error).split())[:200]}); bring back a whole "
                        "one by git, or remove it: `nfk repro` writes it anew") from None


def _hashes(files: list[dict[str, Any]] | None) -> dict[str, str]:
    # DVC names the algorithm in `hash` and keeps the value under that name; outs without a cache have none
    return {str(file["path"]): f"{file['hash']}:{file[file['hash']]}" for file in files or () if "hash" in file}


def _versions() -> dict[str, str]:
    found = {"version.python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[f"version.{name}"] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True,
                          timeout=_GIT_SECONDS).stdout
