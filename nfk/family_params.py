"""The sections of params.yaml that describe a network: one class for each `model`, and the defaults of each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

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


class ConvVaeParams(FamilyParams):
    """Convolutional VAE: two stride-2 convolutions of width and 2 width channels, one hidden dense layer."""

    model: Literal["conv_vae"] = "conv_vae"
    width: Annotated[int, Field(ge=1, le=1024)] = 16
    hidden: PositiveInt = 32
    latent: PositiveInt = 16
    epochs: PositiveInt = 60


class Lenet5Params(FamilyParams):
    """LeNet-5 with ReLU and max-pooling; 61,706 parameters for ten classes of 28x28 or 32x32 grey images."""

    model: Literal["lenet5"] = "lenet5"
    epochs: PositiveInt = 30


class MlpParams(FamilyParams):
    """A perceptron of three dense layers: hidden, hidden, classes."""

    model: Literal["mlp"] = "mlp"
    hidden: PositiveInt = 128
    epochs: PositiveInt = 30


AnyFamily = Annotated[
    DcganParams | ResnetGanParams | ConvVaeParams | Lenet5Params | MlpParams, Field(discriminator="model")]

MODEL_PARAMS: dict[str, type[FamilyParams]] = {
    "dcgan": DcganParams, "resnet_gan": ResnetGanParams, "conv_vae": ConvVaeParams, "lenet5": Lenet5Params,
    "mlp": MlpParams}
