"""A registered version made again from its commit, params.yaml and dvc.lock, in a clone: lineage, proved."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from nfk import durable, embedder, registry, store, tracking
from nfk.models import checkpoint
from nfk.params import PARAMS_FILE, load
from nfk.registry.entries import names_of
from nfk.stages import network, workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

_COMPARED = ("data", "model", "statistics", "factors", "embeddings")


def rebuild(client: MlflowClient, reference: str, *, repository: str | None = None) -> Iterator[str]:
    """Clone, check out, pull the data where DVC has a remote, `dvc repro embed@F`, compare digests; a line each.

    The clone's own code runs, in this environment. Costs the pipeline up to `embed`. RegistryError where the version
    was made with uncommitted changes, where a step fails, and, naming them, where digests differ.
    """
    entry = registry.find(client, reference)
    commit, family = entry.tags.get("git.commit"), entry.tags["family"]
    if commit is None or entry.tags.get("git.dirty") == "true":
        how = "outside of git" if commit is None else "with changes that no commit holds"
        raise registry.RegistryError(f"{entry.reference} was made {how}: it cannot be made again; commit, run the "
                                     "pipeline and register its results")
    # tags are anyone's who can write to the registry: neither may be an option of git's, nor lead out of the clone
    if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", commit) or registry.names(family).embedder != names_of(
            entry.name).embedder:
        raise registry.RegistryError(f"{entry.reference}: its tags name commit {commit!r} of family {family!r}, which "
                                     "are not those of a registration; register it again")
    with TemporaryDirectory(prefix="nfk-rebuild-") as folder:
        clone = Path(folder) / "clone"
        # after `--`: a repository that begins with a dash is none of git's options, of which some run a command
        _run(["git", "clone", "--quiet", "--no-checkout", "--", repository or _top(), str(clone)], Path(folder))
        _run(["git", "checkout", "--quiet", commit], clone)
        for file in (tracking.LOCK_FILE, PARAMS_FILE):
            kept = client.download_artifacts(entry.run_id, file.name, folder)
            durable.copy(Path(kept), clone / file)
        yield f"{entry.reference}: commit {commit[:10]}, in a clone"
        # data that came from elsewhere is pulled; without a remote the data stage makes it again from its source
        if subprocess.run([sys.executable, "-m", "dvc", "remote", "list"], cwd=clone, capture_output=True,
                          text=True).stdout.strip():
            _run([sys.executable, "-m", "dvc", "pull", "--quiet", "--allow-missing", "data"], clone)
        _run([sys.executable, "-m", "dvc", "repro", f"embed@{family}"], clone)
        found = _digests(clone, family)
    wrong = [name for name in _COMPARED if found[name] != entry.tags[f"digest.{name}"]]
    for name in _COMPARED:
        yield f"{name:12} {found[name][:16]} {'differs' if name in wrong else 'agrees'}"
    if wrong:
        here = embedder.device()
        other = "" if here == entry.tags.get("device") else f" (made on {entry.tags.get('device')}, here {here})"
        raise registry.RegistryError(f"{entry.reference}: {', '.join(wrong)} differ{other}; bits repeat on one kind of "
                                     "device with the same library versions")


def _digests(clone: Path, family: str) -> dict[str, str]:
    params = load(clone / PARAMS_FILE)
    stores = {"data": workspace.data_store(params), "statistics": workspace.statistics_store(family),
              "factors": workspace.factors_store(family), "embeddings": workspace.embeddings_store(family)}
    return {"model": network.digest(checkpoint.read_card(clone / workspace.model_folder(family))),
            **{name: store.read(clone / path).digest for name, path in stores.items()}}


def _top() -> str:
    return subprocess.run(["git", "rev-parse", "--show-toplevel"], check=True, capture_output=True, text=True
                          ).stdout.strip()


def _run(command: list[str], folder: Path) -> None:
    """In the clone, with its code before this one's, and an MLflow store of its own."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise registry.RegistryError(f"`{' '.join(command[-3:])}` failed in the clone: {''.join(last)}")
