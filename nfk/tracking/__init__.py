"""What ran, logged to MLflow: one parent run a pipeline run, one child run a stage, across processes.

    record = tracking.StageRecord(stage="svd", family="gan", started=started, metrics={...}, figures=(...,))
    arrived = tracking.log(record, params.tracking)

A record is kept on disk (`.nfk/spool/`) until the tracker has it, so that a tracker that is away costs
nothing but a later `replay`. No function here raises for a fault of the tracker. Sending starts a process and imports
MLflow, nearly 3 s of a processor, so short stages of a pipeline run share one sending.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from nfk.params import PARAMS_FILE, TrackingParams
from nfk.tracking import spool
from nfk.tracking.delivery import Delivery, deliver, tracking_uri
from nfk.tracking.lineage import LOCK_FILE, LockFault, StageHashes, all_dvc_hashes, dvc_hashes, git_state, provenance
from nfk.tracking.pipeline_run import (
    ENVIRONMENT_VARIABLE,
    new_pipeline_run_id,
    nobody_finishes,
    pipeline_run_id,
)
from nfk.tracking.record import PipelineRecord, Record, StageRecord, Status, stage_name
from nfk.tracking.redaction import redact

__all__ = [
    "ENVIRONMENT_VARIABLE", "LOCK_FILE", "Delivery", "StageHashes", "StageRecord", "Status", "all_dvc_hashes",
    "catch_up", "dvc_hashes", "finish", "git_state", "log", "new_pipeline_run_id", "pending", "pipeline_run_id",
    "provenance", "redact", "replay", "stage_name", "tracking_uri",
]

# for whichever module imports mlflow in this process or one it starts
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

# in which a stage's record may wait for the next: seconds, and at most this share of a run goes into sending
_BETWEEN_SENDINGS, _SHARE = 60.0, 1 / 20


def log(record: StageRecord, params: TrackingParams) -> bool:
    """Log one stage's run; whether all is well. If not, it is in the spool and one line on stderr says so.

    Commit, versions and platform are added to the record's tags. Stages of a bare `dvc repro` also bring the
    parent run up to date, since nothing of ours runs after the last of them; the hashes of that last stage
    are then missing, because DVC writes them once it has ended. Costs about 3 s.

    Where `finish` will come and the tracker heard of this workspace in the last minute, or in twenty times what that
    took, a stage that succeeded waits in the spool, silently, for the next sending: that of a later stage, or `finish`.
    """
    records: list[Record] = [record.model_copy(update={"tags": provenance() | record.tags})]
    finished_by_us = record.pipeline_run is not None and not nobody_finishes(record.pipeline_run)
    if record.pipeline_run is not None and not finished_by_us:
        records.append(_pipeline_record(record.pipeline_run, record.status, record.started, {}))
    may_wait = finished_by_us and record.status == "FINISHED" and spool.sent_lately(_BETWEEN_SENDINGS, _SHARE)
    return _log(records, params, with_waiting=finished_by_us, may_wait=may_wait)


def finish(pipeline_run: str, params: TrackingParams, *, status: Status = "FINISHED",
           started: datetime | None = None, tags: Mapping[str, str] | None = None) -> bool:
    """End a pipeline run: every stage's run gets DVC's hashes of its files, the parent gets `dvc.lock`,
    `params.yaml`, `tags` and `status`. Whether it arrived; `log` says what happens otherwise.

    What waits in the spool is sent first, as a stage's run must be there to get its hashes.
    """
    return _log([_pipeline_record(pipeline_run, status, started, tags or {})], params, with_waiting=True)


def catch_up(params: TrackingParams) -> None:
    """Send what waits, as `finish` does: for records of a pipeline run that was killed before its end."""
    deliver(None, params)


def replay(params: TrackingParams) -> Delivery:
    """Send all that waits in the spool, oldest first; how many records arrived and how many are left, and
    why. Nothing is logged twice, even where an earlier send arrived and only its answer was lost."""
    return deliver(None, params, patient=True)


def pending() -> int:
    """How many records wait in the spool."""
    return len(spool.entries())


def _pipeline_record(pipeline_run: str, status: Status, started: datetime | None,
                     tags: Mapping[str, str]) -> PipelineRecord:
    times = {} if started is None else {"started": started}
    return PipelineRecord(
        pipeline_run=pipeline_run, status=status, tags=provenance() | dict(tags), **times,
        stage_tags=_stage_tags(),
        artifacts=tuple(path for path in (LOCK_FILE, PARAMS_FILE) if path.exists()))


def _stage_tags() -> dict[str, dict[str, str]]:
    try:
        return {stage: hashes.tags() for stage, hashes in all_dvc_hashes().items()}
    except LockFault:  # DVC has told it, and the run that failed by it is logged all the same
        return {}


def _log(records: list[Record], params: TrackingParams, *, with_waiting: bool = False,
         may_wait: bool = False) -> bool:
    name = records[0].name
    kept: list[Path] = []
    try:
        for record in records:
            kept.append(spool.add(record))
    except (OSError, ValueError) as error:
        print(f"tracking: {name} is not logged and not kept for later: {redact(str(error))}", file=sys.stderr)
        return False
    if may_wait:
        return True
    delivery = deliver(None if with_waiting else kept, params)
    arrived = not any(entry.exists() for entry in kept)
    if not arrived:
        print(f"tracking: {name} is not logged to {redact(tracking_uri(params))}: {delivery.fault}; "
              f"it waits in {spool.SPOOL}, `nfk track replay` sends it", file=sys.stderr)
    return arrived
