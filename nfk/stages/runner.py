"""Runs one stage: checks params.yaml, times it, tells MLflow, says in one line what came of it."""

from __future__ import annotations

import importlib
import time
from datetime import UTC, datetime

from nfk import tracking
from nfk.linalg.group import Alone, Group
from nfk.memory import peak_bytes
from nfk.params import Params, load
from nfk.progress import told
from nfk.stages import depended, workspace
from nfk.stages.outcome import Outcome
from nfk.store import write_json
from nfk.workspace_lock import WorkspaceBusy, stage_lock


def run(stage: str, family: str | None = None, group: Group | None = None) -> Outcome:
    """Run `stage` in the current folder, of one family, or study, if it has them. Its faults are raised after MLflow
    has heard of them. Of a group's processes all run it, and process 0 alone locks, keeps times and tells."""
    if group is not None and group.index > 0:
        return _call(stage, load(), family, group)
    params = load()
    if family is not None:  # first of all: a name that params.yaml has not leads anywhere
        (params.study if stage == "study" else params.family)(family)
    before = depended.seen(stage, family)
    name = tracking.stage_name(stage, family)
    started, clock = datetime.now(UTC), time.monotonic()
    try:
        # a stage by hand beside a pipeline, or one that outlived its killed pipeline, is refused
        with stage_lock(workspace.LOCKS / f"{name}.lock"):
            outcome = _call(stage, params, family, group or Alone())
            depended.check(stage, family, before)
    except WorkspaceBusy:
        raise
    except BaseException as fault:
        status = "KILLED" if isinstance(fault, KeyboardInterrupt) else "FAILED"
        tracking.log(tracking.StageRecord(stage=stage, family=family, started=started, status=status,
                                          tags={"error": str(fault)[:500]}), params.tracking)
        raise
    seconds = time.monotonic() - clock
    took = {"seconds": seconds, "peak_gib": round(peak_bytes() / 2**30, 3)}
    write_json(workspace.LAST_RUNS / f"{name}.json", {**took, "started": started.isoformat()})
    tracking.log(tracking.StageRecord(
        stage=stage, family=family, started=started, params=outcome.params,
        metrics={**outcome.metrics, **took},
        series={key: tuple(values) for key, values in outcome.series.items()},
        figures=tuple(outcome.figures),
        tags={f"digest.{key}": value for key, value in outcome.digests.items()}), params.tracking)
    told(name, f"{outcome.summary} ({seconds:.0f} s)")
    return outcome


def _call(stage: str, params: Params, family: str | None, group: Group) -> Outcome:
    run = importlib.import_module(f"nfk.stages.{stage}").run
    return run(params) if family is None else run(params, family, group) if group.size > 1 else run(params, family)
