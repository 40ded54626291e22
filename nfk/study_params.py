"""The sections of params.yaml that describe a study: one class for each kind, and the defaults of each."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from nfk.family_params import Lenet5Params, MlpParams, WideResnetParams
from nfk.section import Name, PositiveInt, Section


class StudyParams(Section):
    """What every study has: the network it is about."""

    family: Name = Field(description="a family of this file, whose results the study reads")

    def bounds(self, *, rank: int, labelled: int) -> tuple[tuple[str, int, int, str], ...]:
        """(key, value, bound, what the bound is) of what may not exceed other sections' numbers: svd.rank, and how many
        training images have labels."""
        del rank, labelled
        return ()


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


AnyStudent = Annotated[Lenet5Params | MlpParams | WideResnetParams, Field(discriminator="model")]

STUDENTS = tuple(kind.model_fields["model"].default for kind in get_args(get_args(AnyStudent)[0]))
"""What a student can be."""

NEED_MAPS = frozenset({"fitnet", "at", "nst", "vid"})
"""Ways of distillation that compare layers with a height and a width."""


class DistillationParams(StudyParams):
    """A small classifier taught by a large one, the family: by its embedding, and by each of the usual ways."""

    study: Literal["distillation"] = "distillation"
    student: AnyStudent = Field(
        WideResnetParams(depth=10), description="a classifier, as under families; its recipe is every method's")
    examples: Annotated[int, Field(ge=2)] = Field(500, description="leading training images the students learn from")
    components: PositiveInt = Field(20, description="of the teacher's embedding")
    methods: Annotated[tuple[Literal["nfk-l2", "nfk-cosine", "kd", "fitnet", "at", "nst", "vid"], ...],
                       Field(min_length=1)] = ("nfk-l2", "nfk-cosine", "kd", "fitnet", "at", "nst", "vid")
    alphas: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1)] = Field(
        (0.1, 0.3, 0.5), description="of nfk and kd: the cross-entropy's share")
    temperatures: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = Field(
        (2.0, 4.0), description="of kd")
    strengths: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = Field(
        (0.01, 0.1, 1.0), description="of the others: times the weight usual for each")

    @model_validator(mode="after")
    def _student_can(self) -> DistillationParams:
        if self.student.torch is not None:
            raise ValueError("student.torch is set, and a student learns here")
        if self.student.batch > self.examples:
            raise ValueError(f"student.batch={self.student.batch} exceeds examples={self.examples}")
        if isinstance(self.student, MlpParams) and (unfit := sorted(set(self.methods) & NEED_MAPS)):
            raise ValueError(f"student.model='mlp' has no feature maps, which {', '.join(unfit)} compare; choose "
                             "lenet5 or wide_resnet, or leave them out of methods")
        return self

    def bounds(self, *, rank: int, labelled: int) -> tuple[tuple[str, int, int, str], ...]:
        return (("components", self.components, rank, "svd.rank"),
                ("examples", self.examples, labelled, "the number of labelled training examples"))


AnyStudy = Annotated[EigenvalueErrorParams | RetrievalParams | DistillationParams, Field(discriminator="study")]

STUDIES: dict[str, type[StudyParams]] = {
    kind.model_fields["study"].default: kind for kind in get_args(get_args(AnyStudy)[0])}
