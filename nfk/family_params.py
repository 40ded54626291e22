"""The sections of params.yaml that describe a network: one class for each `model`, and the defaults of each."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, JsonValue, Tag

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


class CustomParams(Section):
    """A network of the user's own: `module:function` in the project's folder or installed, called with `options`.
    `nfk.models.protocol` says what it must return."""

    model: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    options: dict[str, JsonValue] = Field({}, description="what the function is called with")


Shipped = Annotated[DcganParams | ConvVaeParams | Lenet5Params | MlpParams, Field(discriminator="model")]


def _whose(entry: Any) -> str:
    model = entry.get("model") if isinstance(entry, dict) else getattr(entry, "model", None)
    return "custom" if isinstance(model, str) and ":" in model else "shipped"


AnyFamily = Annotated[
    Annotated[Shipped, Tag("shipped")] | Annotated[CustomParams, Tag("custom")], Discriminator(_whose)]

MODEL_PARAMS: dict[str, type[FamilyParams]] = {
    "dcgan": DcganParams, "conv_vae": ConvVaeParams, "lenet5": Lenet5Params, "mlp": MlpParams}
