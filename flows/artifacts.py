"""What a run shows in Prefect, each thing once, though the answer to a request may be lost after it arrived."""

from __future__ import annotations

import time

import httpx
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.utilities.context import get_task_and_flow_run_ids

_PAUSES = tuple(2.0**number for number in range(1, 9))  # those between Prefect's own tries, as `flows` sets them
_LATER = (408, 429)  # not refused: too slow, or too many requests, as Prefect Cloud says; Prefect's client tries again


def publish(artifact: Artifact) -> None:
    """Make the artifact in the run that is going on.

    Prefect's client repeats by itself a request that got no answer, and an artifact would be there twice. So it is sent
    a single time, and before it is sent again the run's artifacts of its key are looked at.
    """
    sent = False
    for pause in (*_PAUSES, None):
        try:
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
                if not (sent and _is_there(artifact)):
                    sent = True
                    artifact.create()
            return
        except httpx.HTTPError as fault:
            status = fault.response.status_code if isinstance(fault, httpx.HTTPStatusError) else 503
            if pause is None or (status < 500 and status not in _LATER):
                raise
            time.sleep(pause)


def _is_there(artifact: Artifact) -> bool:
    """Whether this run has one of the same key and content."""
    _, run = get_task_and_flow_run_ids()
    wanted = ArtifactFilter.model_validate({"key": {"any_": [artifact.key]}, "flow_run_id": {"any_": [run]}})
    there = get_client(sync_client=True).read_artifacts(artifact_filter=wanted)
    return any(found.data == artifact.format() for found in there)
