from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime

import numpy as np
import pytest
from pydantic import ValidationError

from nfk.tracking.record import PipelineRecord, StageRecord, parse

Make = Callable[..., StageRecord]


def test_a_record_survives_json_with_its_nan(record: Make) -> None:
    made = record(metrics={"loss": math.nan, "top": math.inf}, series={"s": (3.0, math.nan)})
    read = parse(made.model_dump_json())
    assert isinstance(read, StageRecord)
    assert math.isnan(read.metrics["loss"]) and read.metrics["top"] == math.inf
    assert read.series["s"][0] == 3.0 and math.isnan(read.series["s"][1])
    assert (read.id, read.started, read.name) == (made.id, made.started, "svd@gan")


def test_the_kind_tells_stages_from_the_pipeline() -> None:
    made = PipelineRecord(pipeline_run="r1", stage_tags={"data": {"dvc.out.d": "md5:1"}})
    assert parse(made.model_dump_json()) == made


def test_params_are_flat_text(record: Make) -> None:
    made = record(params={"svd": {"rank": 8, "strategy": "auto"}, "seed": 0, "labels": (1, 2), "none": None})
    assert made.params == {"svd.rank": "8", "svd.strategy": "auto", "seed": "0", "labels": "(1, 2)",
                           "none": "None"}


def test_array_scalars_and_arrays_are_numbers(record: Make) -> None:
    made = record(metrics={"a": np.float32(0.5)}, series={"s": np.asarray([2.0, 1.0], np.float32)})
    assert made.metrics == {"a": 0.5} and made.series == {"s": (2.0, 1.0)}


def test_two_records_differ_in_id(record: Make) -> None:
    assert record().id != record().id


def test_a_stage_without_family_is_named_by_the_stage(record: Make) -> None:
    assert record(stage="data", family=None).name == "data"


def test_unknown_fields_are_refused(record: Make) -> None:
    with pytest.raises(ValidationError, match=r"metric\n.*Extra inputs"):
        record(metric={"a": 1.0})


def test_times_without_a_zone_are_refused(record: Make) -> None:
    with pytest.raises(ValidationError, match="timezone"):
        record(started=datetime(2026, 1, 1))


@pytest.mark.parametrize("text", [
    "", "{", "[]", "{}", '{"kind": "other"}', '{"kind": "stage"}', '{"kind": "pipeline", "pipeline_run": 3}',
    '{"kind": "stage", "stage": "", "started": "2026-01-01T00:00:00Z"}',
    '{"kind": "stage", "stage": "svd", "started": "2026-01-01T00:00:00Z", "params": [1]}',
])
def test_a_text_that_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        parse(text)
