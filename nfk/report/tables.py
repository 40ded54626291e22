"""The rows of the page's tables, put in order and named, from the metrics of each family."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from nfk.report.content import Family
from nfk.report.metrics import (
    Claim,
    Feature,
    FewLabels,
    Metrics,
    NeighbourProbe,
    Probe,
    ReportError,
    Spectrum,
)

_NAMES: tuple[tuple[str, str, str], ...] = (
    # pattern of the feature's name, its kind, how it is written
    (r"nfk-(\d+)", "nfk", "NFK, k = {0}"),
    (r"nfk-(\d+)-(.+)", "nfk-variant", "NFK, k = {0}, {1}"),
    (r"full-fisher-vector", "full", "Full Fisher vector"),
    (r"fisher-and-activations", "other", "Full Fisher vector and activations, side by side"),
    (r"activations-all-pca-(\d+)", "activations", "Activations, all layers, PCA to {0}"),
    (r"activations-all", "activations", "Activations, all layers"),
    (r"activations-(.+)-pca-(\d+)", "activations", "Activations, {0}, PCA to {1}"),
    (r"activations-(.+)", "activations", "Activations, {0}"),
    (r"pca-(\d+)", "pca", "PCA of pixels, {0}"),
    (r"pixels", "pixels", "Pixels"),
)
_ORDER = ("nfk", "nfk-variant", "full", "activations", "pca", "pixels", "other")


class Name(NamedTuple):
    """A representation's name as the page writes it; `size` is the k or the dimension in it, if any."""

    kind: str
    label: str
    size: int | None


def name_of(feature: str) -> Name:
    """Read a feature's name in the metrics: 'nfk-128' -> ('nfk', 'NFK, k = 128', 128)."""
    for pattern, kind, label in _NAMES:
        found = re.fullmatch(pattern, feature)
        if found:
            size = next((int(part) for part in found.groups() if part.isdigit()), None)
            return Name(kind, label.format(*found.groups()), size)
    return Name("other", _sentence_case(feature), None)


def _sentence_case(key: str) -> str:
    return key[:1].upper() + key[1:].replace("-", " ")


class Row(NamedTuple):
    """One representation of a table: measured, or left out for a reason; never a zero in its place."""

    key: str
    kind: str
    label: str
    feature: Feature | None
    left_out: str = ""


def rows(metrics: Metrics) -> tuple[Row, ...]:
    """Every representation, measured or left out, by kind and then by size."""
    measured = [Row(key, name_of(key).kind, name_of(key).label, feature)
                for key, feature in metrics.features.items()]
    missing = [Row(key, name_of(key).kind, name_of(key).label, None, reason)
               for key, reason in metrics.left_out.items()]

    def place(row: Row) -> tuple[int, int]:
        # layers keep the network's order, which no number in their names tells
        size = 0 if row.kind == "activations" else name_of(row.key).size or 0
        return _ORDER.index(row.kind), size

    return tuple(sorted(measured + missing, key=place))


def largest_rank(metrics: Metrics) -> int:
    """The largest k of the measured embeddings."""
    ranks = [name.size for name in map(name_of, metrics.features) if name.kind == "nfk" and name.size]
    if not ranks:
        raise ReportError(
            f"{metrics.family}: none of the {len(metrics.features)} representations measured is nfk-K; "
            f"set evaluate.ranks to at most {metrics.rank} and run the evaluate stage again")
    return max(ranks)


def best_activations(metrics: Metrics) -> str | None:
    """The layer, or layers, that the validation split prefers; the test split has no say in the choice."""
    scored = {key: feature.logistic.validation_accuracy or 0.0
              for key, feature in metrics.features.items()
              if name_of(key).kind == "activations" and feature.logistic is not None}
    return max(scored, key=scored.__getitem__) if scored else None


def comparison(metrics: Metrics) -> tuple[Row, ...]:
    """The embedding at its largest k, then its rivals: PCA at this k, full vector, activations, pixels."""
    rank = largest_rank(metrics)
    found = {row.key: row for row in rows(metrics)}
    activations = best_activations(metrics) or next(
        (key for key, row in found.items() if row.kind == "activations"), "activations")
    compared = []
    for key in (f"nfk-{rank}", f"pca-{rank}", "full-fisher-vector", activations, "pixels"):
        name = name_of(key)
        row = found.get(key) or Row(key, name.kind, name.label, None,
                                    "not among the representations evaluated")
        if key == activations:
            layers = f": {row.label.removeprefix('Activations, ')}" if row.feature else ""
            row = row._replace(label=f"Best activations{layers}")
        compared.append(row)
    return tuple(compared)


def best(compared: Iterable[Row], probe: str) -> frozenset[str]:
    """The keys of the rows with the highest accuracy, as rounded, by `probe`, a field of Feature."""
    readings: dict[str, Probe | NeighbourProbe | None] = {
        row.key: getattr(row.feature, probe) for row in compared if row.feature}
    shown = {key: _rounded(reading.accuracy) for key, reading in readings.items() if reading}
    return frozenset(key for key, value in shown.items() if value == max(shown.values()))


def _rounded(accuracy: float) -> float:
    return round(100 * accuracy, 1)


class Axis(NamedTuple):
    """The accuracies a column of dots spans, from `low` to `high`, and where it is ticked."""

    low: float
    high: float

    def place(self, accuracy: float) -> str:
        """Percent of the column's width, for CSS."""
        return f"{100 * (accuracy - self.low) / (self.high - self.low):.2f}%"

    def length(self, difference: float) -> str:
        """A difference of accuracies in percent of the column's width."""
        return f"{100 * difference / (self.high - self.low):.2f}%"

    @property
    def ticks(self) -> tuple[float, ...]:
        """Tens of percent where they are few, otherwise both ends."""
        tens = range(round(10 * self.low), round(10 * self.high) + 1)
        return tuple(ten / 10 for ten in tens) if len(tens) <= 4 else (self.low, self.high)


def axis(compared: Iterable[Row]) -> Axis:
    """From the ten percent below the least accuracy to the ten above the greatest, errors included."""
    readings = [row.feature.logistic for row in compared if row.feature and row.feature.logistic]
    low = min((reading.accuracy - reading.standard_error for reading in readings), default=0.0)
    high = max((reading.accuracy + reading.standard_error for reading in readings), default=1.0)
    # the small amounts keep 0.3 = 3 * 0.1 + round-off in its own ten
    low, high = max(math.floor(10 * low + 1e-9), 0), min(math.ceil(10 * high - 1e-9), 10)
    return Axis(low / 10, max(high, low + 1) / 10)


class FewLabelTable(NamedTuple):
    """Rows by representation, columns by number of labels; `best` is each column's highest mean, %."""

    labels: tuple[int, ...]
    rows: tuple[tuple[Row, tuple[FewLabels | None, ...]], ...]
    best: tuple[float, ...]
    draws: int


def few_labels(metrics: Metrics) -> FewLabelTable | None:
    """Accuracies from few labels, with the rows left out; None where none were asked for."""
    table = [(row, row.feature.few_labels if row.feature else {}) for row in rows(metrics)]
    labels = sorted({label for _, cells in table for label in cells})
    if not labels:
        return None
    return FewLabelTable(
        labels=tuple(labels),
        rows=tuple((row, tuple(cells.get(label) for label in labels))
                   for row, cells in table if cells or row.left_out),
        best=tuple(max(_rounded(cells[label].mean) for _, cells in table if label in cells)
                   for label in labels),
        draws=max(len(cell.draws) for _, cells in table for cell in cells.values()))


class SpectrumTable(NamedTuple):
    """Curves by name, columns by number of components."""

    components: tuple[int, ...]
    rows: tuple[tuple[str, tuple[float, ...]], ...]


def spectrum_table(spectrum: Spectrum) -> SpectrumTable:
    """The curves at 1, 2, 5, 10, 20, ... components and at the last: the figure shows those between."""
    kept = [place for place, count in enumerate(spectrum.components)
            if str(count).rstrip("0") in ("1", "2", "5") or place == len(spectrum.components) - 1]
    return SpectrumTable(
        components=tuple(spectrum.components[place] for place in kept),
        rows=tuple((name, tuple(values[place] for place in kept))
                   for name, values in spectrum.curves().items()))


class ClaimRow(NamedTuple):
    """One claim across the families; None where a family did not test it.

    `variant` tells apart the claims that share a statement, and is empty for all others.
    """

    statement: str
    variant: str
    claims: tuple[Claim | None, ...]


def claims_by_family(families: Sequence[Family]) -> tuple[ClaimRow, ...]:
    """Every claim tested, in the order met; where the statement differs by family the name stands for it."""
    tested: list[Mapping[str, Claim]] = [
        {claim.name: claim for claim in family.metrics.claims} for family in families]
    names = dict.fromkeys(name for claims in tested for name in claims)
    statements = {}
    for name in names:
        found = {claims[name].statement for claims in tested if name in claims}
        statements[name] = found.pop() if len(found) == 1 else _sentence_case(name)
    shared = [statement for statement, times in Counter(statements.values()).items() if times > 1]
    return tuple(ClaimRow(statement, _sentence_case(name) if statement in shared else "",
                          tuple(claims.get(name) for claims in tested))
                 for name, statement in statements.items())
