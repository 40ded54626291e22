"""The sections of params.yaml that describe a study: one class for each kind, and the defaults of each."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from nfk.family_params import Lenet5Params, MlpParams, WideResnetParams
from nfk.section import Name, PositiveInt, Rate, Section

Positive = Annotated[float, Field(gt=0)]
Values = Annotated[tuple[Positive, ...], Field(min_length=1)]
"""What is tried of one setting."""


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


TimedWay = Literal["auto", "stream", "jvp", "explicit"]


class TimingParams(StudyParams):
    """Seconds of the leading modes against the number of images: ours, the paper's algorithm, and the whole matrix."""

    study: Literal["timing"] = "timing"
    rank: PositiveInt = 32
    first: Annotated[int, Field(ge=1, le=30)] = Field(7, description="the smallest number of images is 2^first")
    last: Annotated[int, Field(ge=1, le=30)] = Field(11, description="the largest is 2^last")
    ways: Annotated[tuple[TimedWay, ...], Field(min_length=1)] = ("auto", "stream", "jvp", "explicit")
    oversampling: Annotated[int, Field(ge=0)] = Field(16, description="of auto and stream; the paper's is 10")
    passes: PositiveInt = Field(6, description="of auto and stream; the paper's are 11")
    seconds: Positive = Field(120.0, description="a way ends before what would take longer")
    memory_gib: Positive = Field(4.0, description="or need more memory")
    devices: PositiveInt | None = Field(
        None, description="as many of the machine's GPUs, or parts of its CPU; null: all GPUs, or the CPU as one")

    @model_validator(mode="after")
    def _in_order(self) -> TimingParams:
        if self.first > self.last:
            raise ValueError(f"first={self.first} is above last={self.last}; give the smaller exponent first")
        return self


class RetrievalParams(StudyParams):
    """How many of the nearest training images have the class of a test image."""

    study: Literal["retrieval"] = "retrieval"
    counts: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(
        (1, 10, 100), description="nearest images looked at")


AnyStudent = Annotated[Lenet5Params | MlpParams | WideResnetParams, Field(discriminator="model")]

SmallNetwork = Annotated[Lenet5Params | WideResnetParams, Field(discriminator="model")]

NETWORKS: dict[str, tuple[str, ...]] = {
    key: tuple(kind.model_fields["model"].default for kind in get_args(get_args(union)[0]))
    for key, union in (("student", AnyStudent), ("network", SmallNetwork))}
"""What the networks that a study trains can be, by the key that describes them."""

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


class SemiSupervisedParams(StudyParams):
    """A small network trained on few labels and all images by published methods, beside probes of the embedding.

    All methods start from the same weights and take the same steps (`network.epochs` passes over the training images)
    of the same labelled and unlabelled images. Of the settings with several values each method's is chosen on the
    validation split, at each number of labels, on the first draw alone, and kept for the others.
    """

    study: Literal["semi_supervised"] = "semi_supervised"
    network: SmallNetwork = Lenet5Params(epochs=12)
    labels: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (100, 500, 1000)
    draws: Annotated[int, Field(ge=2)] = 5
    methods: Annotated[tuple[Literal["supervised", "mixup", "vat", "mean_teacher", "mixmatch", "improved_gan"], ...],
                       Field(min_length=1)] = ("supervised", "mixup", "vat", "mean_teacher", "mixmatch", "improved_gan")
    ramp: Annotated[float, Field(gt=0, le=1)] = Field(
        0.4, description="part of the steps over which Mean Teacher's and MixMatch's weights rise")
    supervised_rates: Values = Field((1.0, 3.0), description="factors of network.learning_rate")
    mixup_alphas: Values = (0.2, 1.0)
    vat_sizes: Values = Field((1.0, 3.0), description="Euclidean norm of the perturbation, pixels in [0, 1]")
    mean_teacher_weights: Values = Field((3.0, 30.0), description="of the mean squared difference of probabilities")
    mean_teacher_decay: Annotated[float, Field(gt=0, lt=1)] = 0.99
    mixmatch_weights: Values = Field((10.0, 75.0), description="lambda_u")
    mixmatch_augmentations: PositiveInt = Field(2, description="K")
    mixmatch_temperature: Positive = 0.5
    mixmatch_alpha: Positive = 0.75
    improved_gan_weights: Values = Field((0.3, 1.0), description="of the loss without labels")
    generator_width: Annotated[int, Field(ge=1, le=1024)] = Field(12, description="of Improved GAN's generator")
    generator_latent: PositiveInt = 32
    generator_learning_rate: Rate = 1e-3

    @field_validator("network")
    @classmethod
    def _trained_here(cls, network: Lenet5Params | WideResnetParams) -> Lenet5Params | WideResnetParams:
        if network.torch is not None:
            raise ValueError("torch has weights trained elsewhere, and the study trains its own")
        return network


class PretextParams(StudyParams):
    """What the body of the family's discriminator learns otherwise: from rotations, as BiGAN's encoder, from labels."""

    study: Literal["pretext"] = "pretext"
    methods: Annotated[tuple[Literal["rotnet", "bigan", "supervised"], ...], Field(min_length=1)] = (
        "rotnet", "bigan", "supervised")
    batch: Annotated[int, Field(ge=2, le=65536)] = 64
    learning_rate: Rate = 1e-3
    epochs: PositiveInt = Field(20, description="of rotnet and supervised; one of rotnet's sees each image four times")
    bigan_epochs: PositiveInt = 40
    bigan_learning_rate: Rate = 1e-3
    bigan_hidden: PositiveInt = Field(128, description="units of the joint discriminator's dense layer")


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
    only: tuple[str, ...] | None = Field(
        None, description="variants of the vectors to try, by name, beside the default; null: all")
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
    EigenvalueErrorParams | TimingParams | RetrievalParams | DistillationParams | SemiSupervisedParams | PretextParams
    | AblationsParams | OutliersParams | AttributionParams | InversionParams | ComponentsParams,
    Field(discriminator="study")]

STUDIES: dict[str, type[StudyParams]] = {
    kind.model_fields["study"].default: kind for kind in get_args(get_args(AnyStudy)[0])}
