"""Stages that were killed, as the system does where memory runs out: told, and recorded, by who ran them.

Killed, or aborted in native code, a stage can neither say why nor tell MLflow. Its lock is free then and still has its
number (`workspace_lock.stage_lock`).
"""

from __future__ import annotations

from datetime import UTC, datetime

from nfk import tracking
from nfk.memory import REMEDY
from nfk.params import TrackingParams
from nfk.stages import workspace
from nfk.workspace_lock import cut_off


def told(params: TrackingParams, pipeline_run: str, since: datetime, why: str | None = None) -> list[str]:
    """One line for each stage that began after `since` and was cut off; `why` where the caller ended it himself.

    MLflow gets each as a run of status KILLED.
    """
    lines = []
    for lock in sorted(workspace.LOCKS.glob("*.lock")):
        if not cut_off(lock) or (started := datetime.fromtimestamp(lock.stat().st_mtime, UTC)) < since:
            continue
        stage, _, family = lock.stem.partition("@")
        seconds = (datetime.now(UTC) - started).total_seconds()
        line = why or (f"{lock.stem} was cut off after {seconds:.0f} s, as happens where memory "
                       f"runs out or someone kills it; {REMEDY}")
        tracking.log(tracking.StageRecord(
            pipeline_run=pipeline_run, stage=stage, family=family or None, started=started, status="KILLED",
            tags={"error": line}), params)
        lines.append(line)
    return lines
