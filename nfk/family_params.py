"""The sections of params.yaml that describe a network: one class for each `model`, and the defaults of each."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, JsonValue, Tag, field_validator, model_validator

from nfk.section import PositiveInt, Rate, Section

Batch = Annotated[int, Field(ge=2, le=65536, description="images a step")]
LearningRate = Annotated[Rate, Field(description="of Adam")]
Epochs = Annotated[PositiveInt, Field(description="passes over the training images")]
Channels = Annotated[int, Field(ge=1, le=1024)]
Width = Annotated[Channels, Field(description="channels of its layers, or what theirs are multiples of")]
GeneratorWidth = Annotated[Channels, Field(description="the same, of the generator")]
Latent = Annotated[PositiveInt, Field(description="numbers that an image is drawn from")]
Ema = Annotated[float, Field(ge=0, lt=1, description="decay of the moving average of the weights, a step")]
Mixtures = Annotated[PositiveInt, Field(description="discretised logistics a pixel")]


class FamilyParams(Section):
    """What every trained network has: how long, how fast, in what batches it learns."""

    batch: Batch = 64
    learning_rate: LearningRate = 1e-3
    epochs: Epochs = 20


class DcganParams(FamilyParams):
    """DCGAN: stride-2 4x4 convolutions of width, 2 width, 4 width channels, spectral norm, hinge loss.

    On 28x28 grey images width 10 has 16,871 discriminator parameters (the paper's appendix C.2: "17K"),
    width 64 has 660,929.
    """

    model: Literal["dcgan"] = "dcgan"
    width: Width = 10
    generator_width: GeneratorWidth = 12
    latent: Latent = 32
    batch: Batch = 32
    epochs: Epochs = 60
    learning_rate: LearningRate = 2e-3
    ema: Ema = 0.998


class ResnetGanParams(FamilyParams):
    """Residual GAN of Zhai et al. 2019: four blocks of width channels, spectral norm; three blocks in the generator.

    On 32x32 colour images width 256, the paper's, has 5,915,393 discriminator parameters; width 16 on 28x28 grey ones
    has 23,537. The paper's are latent 256, generator_width 256, batch 64, learning rates 4e-4 (discriminator) and
    2e-4 (generator), least squares. `penalty` holds the generator to its moving average (0: off).
    """

    model: Literal["resnet_gan"] = "resnet_gan"
    width: Width = 16
    generator_width: GeneratorWidth = 16
    latent: Latent = 32
    batch: Batch = 32
    epochs: Epochs = 6
    learning_rate: LearningRate = 1e-3
    generator_learning_rate: Annotated[Rate, Field(description="the same, of the generator")] = 1e-3
    loss: Literal["least_squares", "hinge"] = Field(
        "least_squares", description="the game of discriminator and generator")
    ema: Ema = 0.99
    penalty: Annotated[float, Field(ge=0)] = Field(
        0.0, description="weight of the generator's distance from its moving average; 0: off")


class VaeParams(FamilyParams):
    """A VAE's potential: its bound at the posterior mean (`noises` 0), or the mean of it over so many noises, the same
    ones for all images; `importance`: the importance-weighted bound of these noises."""

    noises: Annotated[int, Field(ge=0, le=1000)] = Field(
        0, description="noises of the potential, the same for all images; 0: the posterior mean")
    importance: bool = Field(False, description="the importance-weighted bound of these noises")

    @model_validator(mode="after")
    def _noises_to_weigh(self) -> VaeParams:
        if self.importance and not self.noises:
            raise ValueError("importance=True needs noises to weigh and has noises=0; raise noises, or set "
                             "importance to false")
        return self


class ConvVaeParams(VaeParams):
    """Convolutional VAE: two stride-2 convolutions of width and 2 width channels, one hidden dense layer."""

    model: Literal["conv_vae"] = "conv_vae"
    width: Width = 16
    hidden: PositiveInt = Field(32, description="units of the dense layer")
    latent: Latent = 16
    epochs: Epochs = 60


class LikelihoodParams(FamilyParams):
    """What is trained by its likelihood returns a moving average of the parameters, of decay `ema` a step."""

    ema: Ema = 0.99


Blocks = Annotated[tuple[PositiveInt, ...], Field(min_length=2, max_length=12)]
"""Numbers of blocks at each resolution, full size first."""


class VdvaeParams(VaeParams, LikelihoodParams):
    """Hierarchical VAE (Child 2020): `encoder` bottom-up and `decoder` top-down blocks of `width` channels at each
    resolution: full size, half, quarter, ..., and last 1x1; the blocks' 3x3 convolutions have `middle` channels, every
    top-down block draws `latent` channels of latents; every pixel a mixture of `mixtures` discretised logistics.

    Child's network for 32x32 colour images is about width 384, middle 96, latent 16, mixtures 10, encoder
    [12, 7, 7, 4, 3], decoder [22, 11, 6, 3, 1]: 39,145,700 parameters. The default has 69,215 on 28x28 grey ones.
    """

    model: Literal["vdvae"] = "vdvae"
    width: Width = 32
    middle: Channels = Field(8, description="channels of the blocks' 3x3 convolutions")
    latent: PositiveInt = Field(4, description="channels of latents that every top-down block draws")
    encoder: Blocks = Field((1, 1, 1, 1), description="bottom-up blocks at each resolution, full size first")
    decoder: Blocks = Field((1, 2, 2, 1), description="top-down blocks at each resolution, full size first")
    mixtures: Mixtures = 5
    batch: Batch = 32
    learning_rate: LearningRate = 3e-3
    epochs: Epochs = 5

    @model_validator(mode="after")
    def _same_resolutions(self) -> VdvaeParams:
        if len(self.encoder) != len(self.decoder):
            raise ValueError(f"encoder has {len(self.encoder)} resolutions and decoder {len(self.decoder)}; give both "
                             "as many numbers")
        return self


class FlowParams(LikelihoodParams):
    """Normalizing flow: at each of `levels` scales a squeeze and `steps` affine couplings between 1x1 convolutions,
    conditioned by convolutions of `width` channels (RealNVP, Glow). 29,856 parameters on grey images."""

    model: Literal["flow"] = "flow"
    levels: Annotated[int, Field(ge=1, le=8)] = Field(2, description="scales, each of half the size")
    steps: PositiveInt = Field(4, description="couplings at each scale")
    width: Width = 32
    batch: Batch = 32
    learning_rate: LearningRate = 3e-3


class PixelCnnParams(LikelihoodParams):
    """PixelCNN++ at one scale: two streams of `blocks` gated residual blocks of `filters` channels, the kernels of
    block i dilated 2^i times; every pixel a mixture of `mixtures` discretised logistics. 27,531 parameters on grey
    images, 16 rows seen above a pixel."""

    model: Literal["pixelcnn"] = "pixelcnn"
    filters: Channels = Field(12, description="channels of each stream")
    blocks: Annotated[int, Field(ge=1, le=16)] = Field(3, description="residual blocks, each dilated twice as far")
    mixtures: Mixtures = 5
    batch: Batch = 32
    learning_rate: LearningRate = 5e-3
    epochs: Epochs = 6


class EdmParams(LikelihoodParams):
    """Diffusion (EDM): a U-Net of `width` and 2 width channels at three sizes; 91,000 parameters at width 16.

    The potential is minus a weighted denoising error at `potential_levels` noise levels between `potential_low` and
    `potential_high` (images lie in [-1, 1]); `weighting` is the likelihood bound's or training's own.
    """

    model: Literal["edm"] = "edm"
    width: Annotated[int, Field(ge=4, le=1024, multiple_of=4)] = Field(
        16, description="channels at full size; twice as many below")
    attention: bool = Field(True, description="self-attention at the smallest size")
    batch: Batch = 32
    epochs: Epochs = 12
    learning_rate: LearningRate = 3e-3
    sampler_steps: Annotated[int, Field(ge=2, le=1000)] = Field(12, description="steps that a sample is drawn in")
    potential_levels: Annotated[int, Field(ge=1, le=1000)] = Field(8, description="noise levels of the potential")
    potential_low: Annotated[float, Field(gt=0)] = Field(0.05, description="the least of them; images lie in [-1, 1]")
    potential_high: Annotated[float, Field(gt=0)] = Field(5.0, description="the largest of them")
    weighting: Literal["likelihood", "edm"] = Field(
        "likelihood", description="of the levels' errors: the likelihood bound's, or training's own")

    @model_validator(mode="after")
    def _levels_in_order(self) -> EdmParams:
        if self.potential_low >= self.potential_high:
            raise ValueError(f"potential_low={self.potential_low} must be below potential_high={self.potential_high}")
        return self


class TorchParams(Section):
    """Weights that PyTorch trained, instead of a training here: `nfk.models.torch_weights` has the key map."""

    path: str = Field(description="a safetensors file, from the project's folder")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="of that file: DVC sees a changed one by it")]
    modules: dict[str, str] = Field({}, description="PyTorch's name by ours, where it is not the usual one")
    mean: tuple[float, ...] = Field((), description="by channel: what that training took off the images in [0, 1]")
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field((), description="by channel: what it then divided by")

    @model_validator(mode="after")
    def _pairs(self) -> TorchParams:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} channels, std {len(self.std)}; give both, or neither")
        return self


class ClassifierParams(FamilyParams):
    """What every classifier has."""

    torch: TorchParams | None = Field(None, description="weights that PyTorch trained, instead of a training here")


class Lenet5Params(ClassifierParams):
    """LeNet-5 with ReLU and max-pooling; 61,706 parameters for ten classes of 28x28 or 32x32 grey images."""

    model: Literal["lenet5"] = "lenet5"
    epochs: Epochs = 30


class MlpParams(ClassifierParams):
    """A perceptron of three dense layers: hidden, hidden, classes."""

    model: Literal["mlp"] = "mlp"
    hidden: PositiveInt = Field(128, description="units of each hidden layer")
    epochs: Epochs = 30


class WideResnetParams(ClassifierParams):
    """Wide ResNet of 6 n + 4 layers and `width` times 16, 32, 64 channels (Zagoruyko, Komodakis 2016), batch norm.

    For ten classes in colour: WRN-16-1 has 175,066 parameters, WRN-16-2 691,674, WRN-40-2 2,243,546.
    """

    model: Literal["wide_resnet"] = "wide_resnet"
    depth: Annotated[int, Field(ge=10, le=1000)] = Field(16, description="layers, 6 n + 4")
    width: Annotated[int, Field(ge=1, le=64)] = Field(1, description="times 16, 32 and 64 channels")
    batch: Batch = 128
    epochs: Epochs = 30
    learning_rate: Annotated[Rate, Field(description="of SGD with momentum, falling by a cosine")] = 0.1
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(5e-4, description="of the kernels, a step")
    crop: Annotated[int, Field(ge=0, le=64)] = Field(4, description="pixels of the frame that crops are taken from")
    flip: bool = Field(False, description="mirror every other image: right for photographs, wrong for digits")

    @field_validator("depth")
    @classmethod
    def _whole_blocks(cls, depth: int) -> int:
        if (depth - 4) % 6:
            below = depth - (depth - 4) % 6
            raise ValueError(f"depth={depth} must be 6 n + 4, such as {max(below, 10)} or {max(below, 4) + 6}")
        return depth


class CustomParams(Section):
    """A network of the user's own: `module:function` in the project's folder or installed, called with `options`.
    `nfk.models.protocol` says what it must return."""

    model: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    options: dict[str, JsonValue] = Field({}, description="what the function is called with")


Shipped = Annotated[
    DcganParams
    | ResnetGanParams
    | ConvVaeParams
    | VdvaeParams
    | FlowParams
    | PixelCnnParams
    | EdmParams
    | Lenet5Params
    | MlpParams
    | WideResnetParams,
    Field(discriminator="model"),
]


def _whose(entry: Any) -> str:
    model = entry.get("model") if isinstance(entry, dict) else getattr(entry, "model", None)
    return "custom" if isinstance(model, str) and ":" in model else "shipped"


AnyFamily = Annotated[
    Annotated[Shipped, Tag("shipped")] | Annotated[CustomParams, Tag("custom")], Discriminator(_whose)]

MODEL_PARAMS: dict[str, type[FamilyParams]] = {
    family.model_fields["model"].default: family for family in get_args(get_args(Shipped)[0])}
