"""The sections of params.yaml that describe a network: one class for each `model`, and the defaults of each."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, JsonValue, Tag, field_validator, model_validator

from nfk.section import PositiveInt, Rate, Section


class FamilyParams(Section):
    """What every trained network has: how long, how fast, in what batches it learns."""

    batch: Annotated[int, Field(ge=2, le=65536)] = 64
    learning_rate: Rate = 1e-3
    epochs: PositiveInt = 20


class DcganParams(FamilyParams):
    """DCGAN: stride-2 4x4 convolutions of width, 2 width, 4 width channels, spectral norm, hinge loss.

    On 28x28 grey images width 10 has 16,871 discriminator parameters (the paper's appendix C.2: "17K"),
    width 64 has 660,929.
    """

    model: Literal["dcgan"] = "dcgan"
    width: Annotated[int, Field(ge=1, le=1024)] = 10
    generator_width: Annotated[int, Field(ge=1, le=1024)] = 12
    latent: PositiveInt = 32
    batch: Annotated[int, Field(ge=2, le=65536)] = 32
    epochs: PositiveInt = 60
    learning_rate: Rate = 2e-3
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.998


class ResnetGanParams(FamilyParams):
    """Residual GAN of Zhai et al. 2019: four blocks of width channels, spectral norm; three blocks in the generator.

    On 32x32 colour images width 256, the paper's, has 5,915,393 discriminator parameters; width 16 on 28x28 grey ones
    has 23,537. The paper's are latent 256, generator_width 256, batch 64, learning rates 4e-4 (discriminator) and
    2e-4 (generator), least squares. `penalty` holds the generator to its moving average (0: off).
    """

    model: Literal["resnet_gan"] = "resnet_gan"
    width: Annotated[int, Field(ge=1, le=1024)] = 16
    generator_width: Annotated[int, Field(ge=1, le=1024)] = 16
    latent: PositiveInt = 32
    batch: Annotated[int, Field(ge=2, le=65536)] = 32
    epochs: PositiveInt = 6
    learning_rate: Rate = 1e-3
    generator_learning_rate: Rate = 1e-3
    loss: Literal["least_squares", "hinge"] = "least_squares"
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    penalty: Annotated[float, Field(ge=0)] = 0.0


class VaeParams(FamilyParams):
    """A VAE's potential: its bound at the posterior mean (`noises` 0), or the mean of it over so many noises, the same
    ones for all images; `importance`: the importance-weighted bound of these noises."""

    noises: Annotated[int, Field(ge=0, le=1000)] = 0
    importance: bool = False

    @model_validator(mode="after")
    def _noises_to_weigh(self) -> VaeParams:
        if self.importance and not self.noises:
            raise ValueError("importance=True needs noises to weigh and has noises=0; raise noises, or set "
                             "importance to false")
        return self


class ConvVaeParams(VaeParams):
    """Convolutional VAE: two stride-2 convolutions of width and 2 width channels, one hidden dense layer."""

    model: Literal["conv_vae"] = "conv_vae"
    width: Annotated[int, Field(ge=1, le=1024)] = 16
    hidden: PositiveInt = 32
    latent: PositiveInt = 16
    epochs: PositiveInt = 60


class LikelihoodParams(FamilyParams):
    """What is trained by its likelihood returns a moving average of the parameters, of decay `ema` a step."""

    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99


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
    width: Annotated[int, Field(ge=1, le=1024)] = 32
    middle: Annotated[int, Field(ge=1, le=1024)] = 8
    latent: PositiveInt = 4
    encoder: Blocks = (1, 1, 1, 1)
    decoder: Blocks = (1, 2, 2, 1)
    mixtures: PositiveInt = 5
    batch: Annotated[int, Field(ge=2, le=65536)] = 32
    learning_rate: Rate = 3e-3
    epochs: PositiveInt = 5

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
    levels: Annotated[int, Field(ge=1, le=8)] = 2
    steps: PositiveInt = 4
    width: Annotated[int, Field(ge=1, le=1024)] = 32
    batch: Annotated[int, Field(ge=2, le=65536)] = 32
    learning_rate: Rate = 3e-3


class PixelCnnParams(LikelihoodParams):
    """PixelCNN++ at one scale: two streams of `blocks` gated residual blocks of `filters` channels, the kernels of
    block i dilated 2^i times; every pixel a mixture of `mixtures` discretised logistics. 27,531 parameters on grey
    images, 16 rows seen above a pixel."""

    model: Literal["pixelcnn"] = "pixelcnn"
    filters: Annotated[int, Field(ge=1, le=1024)] = 12
    blocks: Annotated[int, Field(ge=1, le=16)] = 3
    mixtures: PositiveInt = 5
    batch: Annotated[int, Field(ge=2, le=65536)] = 32
    learning_rate: Rate = 5e-3
    epochs: PositiveInt = 6


class EdmParams(LikelihoodParams):
    """Diffusion (EDM): a U-Net of `width` and 2 width channels at three sizes; 91,000 parameters at width 16.

    The potential is minus a weighted denoising error at `potential_levels` noise levels between `potential_low` and
    `potential_high` (images lie in [-1, 1]); `weighting` is the likelihood bound's or training's own.
    """

    model: Literal["edm"] = "edm"
    width: Annotated[int, Field(ge=4, le=1024, multiple_of=4)] = 16
    attention: bool = True
    batch: Annotated[int, Field(ge=2, le=65536)] = 32
    epochs: PositiveInt = 12
    learning_rate: Rate = 3e-3
    sampler_steps: Annotated[int, Field(ge=2, le=1000)] = 12
    potential_levels: Annotated[int, Field(ge=1, le=1000)] = 8
    potential_low: Annotated[float, Field(gt=0)] = 0.05
    potential_high: Annotated[float, Field(gt=0)] = 5.0
    weighting: Literal["likelihood", "edm"] = "likelihood"

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

    torch: TorchParams | None = None


class Lenet5Params(ClassifierParams):
    """LeNet-5 with ReLU and max-pooling; 61,706 parameters for ten classes of 28x28 or 32x32 grey images."""

    model: Literal["lenet5"] = "lenet5"
    epochs: PositiveInt = 30


class MlpParams(ClassifierParams):
    """A perceptron of three dense layers: hidden, hidden, classes."""

    model: Literal["mlp"] = "mlp"
    hidden: PositiveInt = 128
    epochs: PositiveInt = 30


class WideResnetParams(ClassifierParams):
    """Wide ResNet of 6 n + 4 layers and `width` times 16, 32, 64 channels (Zagoruyko, Komodakis 2016), batch norm.

    For ten classes in colour: WRN-16-1 has 175,066 parameters, WRN-16-2 691,674, WRN-40-2 2,243,546.
    """

    model: Literal["wide_resnet"] = "wide_resnet"
    depth: Annotated[int, Field(ge=10, le=1000)] = 16
    width: Annotated[int, Field(ge=1, le=64)] = 1
    batch: Annotated[int, Field(ge=2, le=65536)] = 128
    epochs: PositiveInt = 30
    learning_rate: Rate = 0.1
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 5e-4
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
