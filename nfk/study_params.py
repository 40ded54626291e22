"""The sections of params.yaml that describe a study: one class for each kind, and the defaults of each."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from nfk.section import Name, PositiveInt, Section


class StudyParams(Section):
    """What every study has: the network it is about."""

    family: Name = Field(description="a family of this file, whose results the study reads")


Way = Literal["stream64", "gram", "stream", "paper"]


class EigenvalueErrorParams(StudyParams):
    """Eigenvalues of the kernel by the strategies that stream, against a float64 Gram matrix of float64 gradients."""

    study: Literal["eigenvalue_error"] = "eigenvalue_error"
    examples: Annotated[int, Field(ge=2)] = Field(1024, description="leading training images")
    rank: PositiveInt = 128
    ways: Annotated[tuple[Way, ...], Field(min_length=1)] = ("stream64", "gram", "stream", "paper")
    oversampling: Annotated[int, Field(ge=0)] = Field(16, description="of stream; the paper's is 10")
    passes: PositiveInt = Field(6, description="of stream; the paper's are 11")


class RetrievalParams(StudyParams):
    """How many of the nearest training images have the class of a test image."""

    study: Literal["retrieval"] = "retrieval"
    counts: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(
        (1, 10, 100), description="nearest images looked at")


AnyStudy = Annotated[EigenvalueErrorParams | RetrievalParams, Field(discriminator="study")]

STUDIES: dict[str, type[StudyParams]] = {
    kind.model_fields["study"].default: kind for kind in get_args(get_args(AnyStudy)[0])}
