"""The sections of params.yaml that describe a study: one class for each kind, and the defaults of each."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from nfk.section import Name, PositiveInt, Section


class StudyParams(Section):
    """What every study has: the network it is about."""

    family: Name = Field(description="a family of this file, whose results the study reads")


class EigenvalueErrorParams(StudyParams):
    """Eigenvalues of the kernel by the strategies that stream, against a float64 Gram matrix of float64 gradients."""

    study: Literal["eigenvalue_error"] = "eigenvalue_error"
    examples: Annotated[int, Field(ge=2)] = Field(1024, description="leading training images")
    rank: PositiveInt = 128
    ways: Annotated[tuple[Literal["stream64", "gram", "stream", "paper"], ...], Field(min_length=1)] = (
        "stream64", "gram", "stream", "paper")
    oversampling: Annotated[int, Field(ge=0)] = Field(16, description="of stream; the paper's is 10")
    passes: PositiveInt = Field(6, description="of stream; the paper's are 11")


class RetrievalParams(StudyParams):
    """How many of the nearest training images have the class of a test image."""

    study: Literal["retrieval"] = "retrieval"
    counts: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(
        (1, 10, 100), description="nearest images looked at")


class AblationsParams(StudyParams):
    """Variants of the embedding, one change at a time, by the probes of `evaluate`."""

    study: Literal["ablations"] = "ablations"
    dampings: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        (1e-6, 1e-2, 1e-1, 1.0), description="in place of svd.damping")
    samples: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)] = Field(
        (128, 512, 2048), description="model samples for the statistics; the most of them for Kronecker factors")
    kronecker_dampings: tuple[Annotated[float, Field(gt=0)], ...] = (1e-3, 1e-1)
    ranks: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(
        (32, 64, 256), description="in place of svd.rank")
    noises: tuple[PositiveInt, ...] = Field((1, 4), description="draws of noise, where the potential may have any")
    memory_gib: Annotated[float, Field(gt=0)] = Field(8.0, description="what all gradients may take")


AnyStudy = Annotated[EigenvalueErrorParams | RetrievalParams | AblationsParams, Field(discriminator="study")]

STUDIES: dict[str, type[StudyParams]] = {
    kind.model_fields["study"].default: kind for kind in get_args(get_args(AnyStudy)[0])}
