"""Which pipeline run this process belongs to: the parent of a stage's MLflow run, known across processes."""

from __future__ import annotations

import os
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path

import psutil

ENVIRONMENT_VARIABLE = "NFK_PIPELINE_RUN"
_BARE_DVC = "dvc-"


def new_pipeline_run_id() -> str:
    """An id for a pipeline run about to start; hand it to the stages as NFK_PIPELINE_RUN."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def pipeline_run_id() -> str | None:
    """The id of the pipeline run this process is a stage of, or None outside of one.

    NFK_PIPELINE_RUN where it is set; else the nearest ancestor process that is `dvc repro` or `dvc exp run`,
    named by its pid and start, so that every stage it starts finds the same id.
    """
    given = os.environ.get(ENVIRONMENT_VARIABLE, "").strip()
    if given:
        return re.sub(r"[^\w.:-]", "-", given)[:200]  # it becomes part of an MLflow filter
    try:
        for process in psutil.Process().parents():
            if _runs_dvc_stages(process):
                return f"{_BARE_DVC}{process.pid}-{process.create_time() * 1000:.0f}"
    except psutil.Error:  # an ancestor that just ended, or is not ours to inspect
        return None
    return None


def nobody_finishes(pipeline_run: str) -> bool:
    """Whether the run is a bare `dvc repro`, whose end no code of ours sees."""
    return pipeline_run.startswith(_BARE_DVC)


def _runs_dvc_stages(process: psutil.Process) -> bool:
    try:
        words = [Path(word).name for word in process.cmdline()]
    except psutil.AccessDenied:
        return False
    if "dvc" not in words[:3]:  # `dvc`, `python /bin/dvc`, `python -m dvc`
        return False
    command = words[words.index("dvc") + 1:]
    return "repro" in command or command[:2] == ["exp", "run"]
