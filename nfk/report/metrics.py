"""What the evaluate stage hands to the page: `evaluation/F/metrics.json` as frozen models.

Accuracies, explained variances and their errors are fractions in [0, 1]. Fields that the page does not show
are left alone, so that the stage may write more than is read here.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
# a ratio of two sums may pass 1 by round-off
VarianceShare = Annotated[float, Field(ge=0, le=1 + 1e-4)]
Spread = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]


class ReportError(ValueError):
    """The page cannot be made from what it was given; the message is one line per fault."""


class Part(BaseModel):
    """A piece of the report's input: frozen, finite numbers only."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)


class Counts(Part):
    """Images in each split."""

    train: Count
    validation: Count
    test: Count


class Probe(Part):
    """A linear probe's test accuracy; its strength was chosen by the validation accuracy."""

    accuracy: Fraction
    standard_error: Spread
    strength: float | None = None
    validation_accuracy: Fraction | None = None


class NeighbourProbe(Part):
    """k-nearest-neighbour test accuracy; neighbours and metric were chosen by the validation accuracy."""

    accuracy: Fraction
    standard_error: Spread
    neighbours: PositiveInt
    metric: str
    validation_accuracy: Fraction | None = None


class FewLabels(Part):
    """Test accuracy of a logistic probe of few labels: over several draws of the labelled examples."""

    mean: Fraction
    standard_deviation: Spread
    draws: tuple[Fraction, ...] = ()


class Feature(Part):
    """One representation of the images, and what was read from it; a probe not run is None."""

    dimension: PositiveInt
    logistic: Probe | None = None
    squared_hinge: Probe | None = None
    knn: NeighbourProbe | None = None
    few_labels: dict[PositiveInt, FewLabels] = {}


class Spectrum(Part):
    """Explained variance r_k at each of `components`, of the trained and of untrained networks' vectors (their mean,
    and each)."""

    components: tuple[PositiveInt, ...]
    trained: tuple[VarianceShare, ...] = ()
    untrained: tuple[VarianceShare, ...] = ()
    trained_uncentred: tuple[VarianceShare, ...] = ()
    untrained_uncentred: tuple[VarianceShare, ...] = ()
    untrained_draws: tuple[tuple[VarianceShare, ...], ...] = ()

    def curves(self) -> dict[str, tuple[float, ...]]:
        """The curves that were measured, by name."""
        named = {"trained": self.trained, "untrained": self.untrained,
                 "trained, mean score not subtracted": self.trained_uncentred,
                 "untrained, mean score not subtracted": self.untrained_uncentred}
        return {name: values for name, values in named.items() if values}

    @model_validator(mode="after")
    def _one_value_a_component(self) -> Spectrum:
        for name, values in self.curves().items():
            if len(values) != len(self.components):
                raise ValueError(f"spectrum {name}: {len(values)} values for {len(self.components)} "
                                 "components; write one for each")
        return self


class Claim(Part):
    """One statement of the paper, and whether it holds here; margin = value - reference."""

    name: str
    statement: str
    holds: bool
    value: float | None = None
    reference: float | None = None
    margin: float | None = None
    standard_error: Spread | None = None
    note: str = ""
    reason: Annotated[str, Field(description="why it does not hold, where that is known")] = ""


class Metrics(Part):
    """All of `evaluation/F/metrics.json`. What is not in `features` is, with its reason, in `left_out`."""

    family: str
    rank: PositiveInt
    classes: tuple[str, ...]
    counts: Counts
    features: Annotated[dict[str, Feature], Field(description="none where the images have no classes")]
    left_out: dict[str, str] = {}
    spectrum: Spectrum | None = None
    claims: tuple[Claim, ...] = ()

    @model_validator(mode="after")
    def _shown_or_left_out(self) -> Metrics:
        both = sorted(self.features.keys() & self.left_out.keys())
        if both:
            raise ValueError(f"{both[0]}: both measured and left out; keep one of the two")
        return self


def parse_metrics(content: dict[str, Any], source: str = "metrics") -> Metrics:
    """Check the content of a metrics file; ReportError with one line a fault, naming `source`, otherwise."""
    try:
        return Metrics.model_validate(content)
    except ValidationError as error:
        raise ReportError("\n".join(
            f"{source}: {_explain(fault)}; run the evaluate stage again"
            for fault in error.errors(include_url=False))) from None


def _explain(fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "missing":
        return f"{key}: missing"
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    return f"{key}={fault['input']!r}: {fault['msg'].replace('Input should be', 'must be')}"
