"""The networks there are, by the name `model` has in params.yaml."""

from __future__ import annotations

from jaxtyping import Array, Key

from nfk.family_params import AnyFamily
from nfk.models.classifier import Lenet5, Mlp
from nfk.models.conv_vae import ConvVae
from nfk.models.dcgan import Dcgan
from nfk.models.resnet_gan import ResnetGan

Model = Dcgan | ResnetGan | ConvVae | Lenet5 | Mlp

MODELS: dict[str, type[Model]] = {
    "dcgan": Dcgan, "resnet_gan": ResnetGan, "conv_vae": ConvVae, "lenet5": Lenet5, "mlp": Mlp}


def initial(config: AnyFamily, image_shape: tuple[int, int, int], classes: int, key: Key[Array, ""]) -> Model:
    """The untrained network that `config` describes, for images and classes of one data set."""
    return MODELS[config.model].initial(config, image_shape, classes, key)
