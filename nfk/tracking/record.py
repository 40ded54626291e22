"""What is logged: one record for each stage that ran, one for the pipeline run around them."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, field_validator

from nfk.tracking.pipeline_run import pipeline_run_id

Status = Literal["FINISHED", "FAILED", "KILLED"]


def _now() -> datetime:
    return datetime.now(UTC)


class _Record(BaseModel):
    # a diverged loss is NaN and must be told as such
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True, ser_json_inf_nan="constants")

    tags: dict[str, str] = {}
    artifacts: tuple[Path, ...] = Field((), description="small files, copied when the record is logged")
    started: AwareDatetime
    ended: AwareDatetime = Field(default_factory=_now)
    status: Status = "FINISHED"


class StageRecord(_Record):
    """One execution of one stage: the content of one MLflow run.

    `id` makes logging idempotent: a record sent twice is one run. A later record of the same pipeline run,
    stage and family is a retry and takes the place of the earlier one.
    """

    kind: Literal["stage"] = "stage"
    id: str = Field(default_factory=lambda: uuid.uuid4().hex)
    pipeline_run: str | None = Field(default_factory=pipeline_run_id)
    stage: str = Field(min_length=1)
    family: str | None = None
    params: dict[str, str] = Field({}, description="any values and nested sections may be given: "
                                   "{'svd': {'rank': 8}} becomes {'svd.rank': '8'}")
    metrics: dict[str, float] = {}
    series: dict[str, tuple[float, ...]] = Field({}, description="a metric's value at step 0, 1, ...: "
                                                 "loss curves, singular values")
    figures: tuple[Path, ...] = ()

    @field_validator("params", mode="before")
    @classmethod
    def _flat(cls, params: Any) -> Any:
        return _flatten(params) if isinstance(params, dict) else params

    @property
    def name(self) -> str:
        """The stage as `dvc.yaml` calls it: `svd@gan`, or `data` where there is no family."""
        return stage_name(self.stage, self.family)


class PipelineRecord(_Record):
    """The end of a pipeline run: its status, and what `dvc.lock` says of each of its stages."""

    kind: Literal["pipeline"] = "pipeline"
    started: AwareDatetime = Field(default_factory=_now, description="when the run is logged by nothing else")
    pipeline_run: str
    stage_tags: dict[str, dict[str, str]] = Field({}, description="tags by stage, as `dvc.yaml` names it")

    @property
    def id(self) -> str:
        return pipeline_record_id(self.pipeline_run)

    @property
    def name(self) -> str:
        return f"pipeline {self.pipeline_run}"


Record = StageRecord | PipelineRecord
_ADAPTER: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


def parse(text: str) -> Record:
    """The record a JSON text holds; a pydantic ValidationError (a ValueError) where it holds none."""
    return _ADAPTER.validate_json(text)


def stage_name(stage: str, family: str | None) -> str:
    return stage if family is None else f"{stage}@{family}"


def pipeline_record_id(pipeline_run: str) -> str:
    return f"pipeline-{pipeline_run}"


def _flatten(params: dict[Any, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in params.items():
        flat |= (_flatten(value, f"{prefix}{key}.") if isinstance(value, dict)
                 else {f"{prefix}{key}": str(value)})
    return flat
