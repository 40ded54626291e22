"""One stage of `dvc.yaml`, run by DVC in a process group of its own."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from datetime import UTC, datetime

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.process_group import run_streamed
from nfk import tracking
from nfk.params import TrackingParams
from nfk.stages import cut_off


class StageFailed(RuntimeError):
    """A stage ended with an error or out of time; the message names it and says how to see more."""


@task(task_run_name="{stage}", tags=["dvc"], cache_policy=NO_CACHE)
def run_stage(stage: str, *, force: bool, seconds: float, environment: Mapping[str, str], tracker: TrackingParams,
              held: Collection[int] = ()) -> None:
    """Bring `stage` up to date: `dvc repro --single-item STAGE`, each line it prints to the run's log.

    It may take `seconds`; `tracker` hears of one that is killed; `held` and the end of its processes are as
    `flows.process_group.run_streamed` says.
    """
    started = datetime.now(UTC)
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", *(["--force"] if force else []), stage]
    ended = run_streamed(command, get_run_logger().info, seconds=seconds, environment=environment, held=held)
    if ended.timed_out:
        why = (f"stage {stage} was ended: it ran longer than stage_seconds={seconds:g}; raise "
               f"that or see what it does with `dvc repro --single-item {stage}`")
        cut_off.told(tracker, environment[tracking.ENVIRONMENT_VARIABLE], started, why)
        raise StageFailed(why)
    if ended.status != 0:
        if killed := cut_off.told(tracker, environment[tracking.ENVIRONMENT_VARIABLE], started):
            raise StageFailed(killed[0])
        raise StageFailed(f"stage {stage} failed with exit status {ended.status}: its output is above, "
                          f"`dvc repro --single-item {stage}` repeats it alone")
