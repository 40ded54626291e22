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


@pytest.mark.parametrize(("shown", "expected"), [
    (numbers.percent(0.95049), "95.0"), (numbers.percent(1.0), "100.0"),
    (numbers.with_error(0.9505, 0.00685), "95.0\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.7"),
    (numbers.points(0.0376), "+3.8"), (numbers.points(-0.0376), "−3.8"), (numbers.points(-0.0001), "0.0"),
    (numbers.count(16871), "16,871"),
    (numbers.seconds(0.482), "0.48 s"), (numbers.seconds(59.94), "59.9 s"),
    (numbers.seconds(59.96), "1 min 00 s"), (numbers.seconds(245.3), "4 min 05 s"),
    (numbers.seconds(3599.6), "1 h 00 min"), (numbers.seconds(4500.0), "1 h 15 min"),
    (numbers.number(True), "yes"), (numbers.number(3500), "3,500"), (numbers.number(0.83421), "0.8342"),
    (numbers.number(-2.5), "−2.5"), (numbers.number(2.13e-5), "2.1 × 10⁻⁵"),
    (numbers.number(float("nan")), "nan"), (numbers.number(0.0), "0"), (numbers.number("EMA"), "EMA"),
    (numbers.scientific(-3e12), "−3.0 × 10¹²"),
])
def test_numbers_are_written_one_way(shown: str, expected: str) -> None:
    assert shown == expected


def test_curves_that_were_measured_have_names() -> None:
    spectrum = parse_metrics(metrics_of("gan", GAN)).spectrum
    assert spectrum is not None and {"trained", "untrained"} <= spectrum.curves().keys()
    only = Spectrum(components=(1, 2), trained_uncentred=(0.5, 1.00005))
    assert only.curves() == {"trained, mean score not subtracted": (0.5, 1.00005)}  # past 1 by round-off
