"""What the page is made of: plain frozen models, filled by the report stage."""

from __future__ import annotations

import datetime
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from nfk.report.metrics import Count, Counts, Metrics, Part, PositiveInt, Spread, VarianceShare

FigurePlace = Literal["samples", "curves", "spectrum", "accuracy", "few_labels", "components", "neighbours"]
Value = bool | int | float | str


class Figure(Part):
    """A PNG file, embedded in the page when it is made; `alt` says in words what it shows."""

    path: Path
    caption: str
    alt: Annotated[str, Field(min_length=1)]


class PlacedFigure(Figure):
    """A family's figure, and the part of the family's section that shows it."""

    place: FigurePlace


class DataCard(Part):
    """The images that everything was computed from."""

    name: str
    source: str
    digest: str
    image_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    counts: Counts
    classes: tuple[str, ...]
    grid: Figure | None = None


class Check(Part):
    """One thing a stage looked at before or after its work."""

    name: str
    passed: bool
    value: Value
    bound: Value
    remedy: str = ""


class SvdFacts(Part):
    """How the matrix of Fisher vectors, `examples` x `parameters`, was decomposed."""

    strategy: str
    passes: PositiveInt
    rank: PositiveInt
    seconds: Annotated[Spread | None, Field(description="None where the factors came from a cache")] = None
    largest_residual: Annotated[float, Field(ge=0, description="max_i |V^T u_i - s_i w_i| / s_1")]
    explained_variance: Annotated[VarianceShare, Field(description="r_k of the whole matrix at k = rank")]
    whitened: Annotated[str, Field(description="how scores were made Fisher vectors")]
    dead_parameters: Count
    examples: PositiveInt
    parameters: PositiveInt


class Family(Part):
    """One trained network: its training, its checks, its decomposition and what was read from it."""

    name: str
    model: str
    parameters: Annotated[PositiveInt, Field(description="p: those the score is taken in")]
    training_seconds: Spread | None = None
    training: Annotated[dict[str, Value], Field(default_factory=dict, description="metrics by name")]
    checks: tuple[Check, ...] = ()
    figures: tuple[PlacedFigure, ...] = ()
    metrics: Metrics
    svd: SvdFacts

    def figures_at(self, place: str) -> tuple[PlacedFigure, ...]:
        """The figures of one part of the section, in their order."""
        return tuple(figure for figure in self.figures if figure.place == place)


class Finding(Part):
    """One of the page's first sentences, and the network (or other subject) it is about."""

    subject: str
    sentence: str


class Lineage(Part):
    """What it takes to make the page again, and to trace each number on it."""

    commit: str
    dirty: Annotated[bool, Field(description="the working tree differed from the commit")]
    dvc: Annotated[dict[str, str], Field(description="DVC's hash of each input and output")]
    stores: Annotated[dict[str, str], Field(description="digest of each store's manifest")]
    versions: dict[str, str]
    device: str
    tracking_uri: str
    runs: Annotated[dict[str, str], Field(description="MLflow run id of each stage")]
    commands: Annotated[tuple[str, ...], Field(description="those that make the page again")]


class Report(Part):
    """The whole page, in the page's order."""

    title: str
    date: datetime.date
    summary: Annotated[tuple[Finding, ...], Field(description="see `nfk.report.findings.findings`")]
    data: DataCard
    families: Annotated[tuple[Family, ...], Field(min_length=1)]
    lineage: Lineage

    @model_validator(mode="after")
    def _each_family_once(self) -> Report:
        name, times = Counter(family.name for family in self.families).most_common(1)[0]
        if times > 1:
            raise ValueError(f"families: {name!r} is there {times} times, each may be once; "
                             "give each a name of its own")
        return self
