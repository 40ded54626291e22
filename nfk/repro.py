"""`nfk repro`: `dvc repro` as one MLflow pipeline run, for one holder of the workspace."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path

from nfk import progress, tracking
from nfk.family_params import CustomParams
from nfk.params import Params
from nfk.stages import cut_off, workspace
from nfk.stages.changed import changed_modules
from nfk.workspace_lock import workspace_lock

_BEFORE_NETWORKS = {"data", "baselines"}


def reproduce(params: Params, stages: Collection[str] = (), *, force: bool = False) -> bool:
    """Bring the stages (none: all) up to date, and what they depend on; whether all of it succeeded.

    A network of the user's own is pretrained again where its module has changed. WorkspaceBusy while another holds the
    workspace.
    """
    started, pipeline_run = datetime.now(UTC), tracking.new_pipeline_run_id()
    environment = os.environ | {
        tracking.ENVIRONMENT_VARIABLE: pipeline_run,
        # stages are `nfk ...`: the one beside this interpreter
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    dvc = [sys.executable, "-m", "dvc", "repro",
           *(["--quiet"] if os.environ.get(progress.VARIABLE) == "none" else [])]
    status: tracking.Status = "KILLED"
    with workspace_lock() as lock:  # dvc holds it too, should this process be killed; who is refused was no run
        try:
            done = all(subprocess.run([*dvc, *asked], env=environment, pass_fds=[lock]).returncode == 0
                       for asked in _asked(params, stages, force))
            status = "FINISHED" if done else "FAILED"
            if not done:
                for line in cut_off.told(params.tracking, pipeline_run, started):
                    progress.told("nfk", line, warning=True)
        finally:
            if status != "FINISHED" or workspace.stages_since(started.timestamp()):
                tracking.finish(pipeline_run, params.tracking, status=status, started=started)
            elif tracking.pending():  # of a run that was killed before its end
                tracking.catch_up(params.tracking)
    return done


def _asked(params: Params, stages: Collection[str], force: bool) -> Iterator[list[str]]:
    """What DVC is asked for, one after another, each once the one before has succeeded.

    Networks of the user's own come first as DVC has them, and then by force where their module is another: of a card
    that is not there, since its stage failed, DVC brings back the last one.
    """
    if not force and (own := [name for name in _families(params, stages)
                              if isinstance(params.families.get(name), CustomParams)]):
        yield [f"pretrain@{family}" for family in own]
        for family in changed_modules(params):
            if family in own:
                print(f"pretrain@{family}: the file of {params.families[family].model} has changed, so it runs again",
                      flush=True)
                yield ["--single-item", "--force", f"pretrain@{family}"]
    yield [*stages, *(["--force"] if force else [])]


def _families(params: Params, stages: Collection[str]) -> list[str]:
    """The families whose networks these stages of dvc.yaml need: report, or evaluate without a name, those of all."""
    needed = set() if stages else set(params.families)
    for stage in stages:
        kind, _, name = stage.rpartition(":")[2].partition("@")  # FILE:STAGE is DVC's long form
        if not name and kind not in _BEFORE_NETWORKS:
            return list(params.families)
        needed.add(params.studies[name].family if kind == "study" and name in params.studies else name)
    return [name for name in params.families if name in needed]
