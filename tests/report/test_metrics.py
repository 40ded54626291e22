"""A metrics file that is wrong is refused by file, key, value and bound, a line a fault."""

from __future__ import annotations

from typing import Any

import pytest
from example_report import GAN, metrics_of

from nfk.report.metrics import ReportError, Spectrum, parse_metrics


@pytest.mark.parametrize(("path", "value", "message"), [
    (("features", "nfk-16", "logistic", "accuracy"), 1.7,
     r"m\.json: features\.nfk-16\.logistic\.accuracy=1\.7: must be less than or equal to 1; run the"),
    (("features", "pixels", "knn", "standard_error"), float("nan"),
     r"features\.pixels\.knn\.standard_error=nan: must be (greater than or equal to 0|a finite number)"),
    (("left_out",), {"pixels": "no time"}, r"m\.json: pixels: both measured and left out"),
    (("spectrum", "trained"), [0.5], r"spectrum trained: 1 values for 7 components"),
    (("rank",), 0, r"rank=0: must be greater than or equal to 1"),
    (("rank",), "many", r"rank='many': must be a valid integer"),
])
def test_wrong_metrics_are_refused_by_name(path: tuple[str, ...], value: Any, message: str) -> None:
    content = metrics_of("gan", GAN)
    place: Any = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ReportError, match=message):
        parse_metrics(content, source="m.json")


def test_missing_metrics_are_named() -> None:
    content = metrics_of("gan", GAN)
    del content["features"]["nfk-16"]["dimension"], content["counts"]
    with pytest.raises(ReportError) as refused:
        parse_metrics(content, source="m.json")
    assert str(refused.value).splitlines() == [
        "m.json: counts: missing; run the evaluate stage again",
        "m.json: features.nfk-16.dimension: missing; run the evaluate stage again"]


def test_curves_that_were_measured_have_names() -> None:
    spectrum = parse_metrics(metrics_of("gan", GAN)).spectrum
    assert spectrum is not None and {"trained", "untrained"} <= spectrum.curves().keys()
    only = Spectrum(components=(1, 2), trained_uncentred=(0.5, 1.00005))
    assert only.curves() == {"trained, mean score not subtracted": (0.5, 1.00005)}  # past 1 by round-off
