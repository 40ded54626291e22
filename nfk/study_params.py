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
    kronecker_dampings: tuple[Annotated[float, Field(gt=0)], ...] = (1e-3, 1e-2, 1e-1)
    ranks: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(
        (32, 64, 256), description="in place of svd.rank")
    noises: tuple[PositiveInt, ...] = Field((1, 4), description="draws of noise, where the potential may have any")
    memory_gib: Annotated[float, Field(gt=0)] = Field(8.0, description="what all gradients may take")


class OutliersParams(StudyParams):
    """Test images against images of another kind: the area under the ROC curve of scores that saw no outlier."""

    study: Literal["outliers"] = "outliers"
    source: str = Field("photographs", description="what data.source may name, its test part where it has one; or "
                                                   "photographs: pieces of the two that scikit-learn ships")
    classes: tuple[str, ...] | None = Field(None, description="of the source; null: all")
    most: Annotated[int, Field(ge=2)] = Field(1000, description="outliers, evenly spread over the source")
    neighbours: PositiveInt = Field(10, description="the distance is to the nearest but so many")


class AttributionParams(StudyParams):
    """Are the training images nearest to a test image those that its prediction rests on? What is trained without them
    is asked again."""

    study: Literal["attribution"] = "attribution"
    queries: Annotated[int, Field(ge=2)] = Field(100, description="test images, drawn at random, of the probe")
    removed: PositiveInt = Field(50, description="training images of the query's class left out")
    strengths: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (
        1e-3, 1e-2, 1e-1, 1.0, 10.0)
    retrained: Annotated[int, Field(ge=0)] = Field(
        0, description="queries for which the network itself is trained again, by each way; a classifier only")


class InversionParams(StudyParams):
    """Test images drawn again by a generator from a linear map of their embedding (the paper's Figure 4)."""

    study: Literal["inversion"] = "inversion"
    rank: PositiveInt = Field(100, description="numbers of the embedding, and of the principal components")
    generated: Annotated[int, Field(ge=2)] = Field(3000, description="images that the map is fitted on")
    held_out: Annotated[int, Field(ge=2)] = Field(1000, description="images that its strength is chosen on")
    strengths: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (
        1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    classifier: Literal["lenet5", "mlp"] = "lenet5"
    classifier_epochs: PositiveInt = 10


class ComponentsParams(StudyParams):
    """How alike the images at the two ends of each component are (the paper's Figure 6)."""

    study: Literal["components"] = "components"
    components: PositiveInt = 5
    images: Annotated[int, Field(ge=2)] = Field(20, description="at each end")


AnyStudy = Annotated[
    EigenvalueErrorParams | RetrievalParams | AblationsParams | OutliersParams | AttributionParams | InversionParams
    | ComponentsParams, Field(discriminator="study")]

STUDIES: dict[str, type[StudyParams]] = {
    kind.model_fields["study"].default: kind for kind in get_args(get_args(AnyStudy)[0])}
