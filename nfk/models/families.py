"""The networks there are, by the name `model` has in params.yaml."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Key

from nfk.family_params import AnyFamily, CustomParams
from nfk.models.classifier import Lenet5, Mlp
from nfk.models.conv_vae import ConvVae
from nfk.models.custom import Custom
from nfk.models.dcgan import Dcgan
from nfk.models.edm import Edm
from nfk.models.flow import Flow
from nfk.models.pixelcnn import PixelCnn
from nfk.models.resnet_gan import ResnetGan
from nfk.models.vdvae import Vdvae
from nfk.models.wide_resnet import WideResnet

Model = Dcgan | ResnetGan | ConvVae | Vdvae | Flow | PixelCnn | Edm | Lenet5 | Mlp | WideResnet | Custom

MODELS: dict[str, Any] = {  # each kind makes itself of its own parameters, which no common type says
    "dcgan": Dcgan,
    "resnet_gan": ResnetGan,
    "conv_vae": ConvVae,
    "vdvae": Vdvae,
    "flow": Flow,
    "pixelcnn": PixelCnn,
    "edm": Edm,
    "lenet5": Lenet5,
    "mlp": Mlp,
    "wide_resnet": WideResnet,
}


def initial(config: AnyFamily, image_shape: tuple[int, int, int], classes: int, key: Key[Array, ""]) -> Model:
    """The untrained network that `config` describes, for images and classes of one data set."""
    kind: Any = Custom if isinstance(config, CustomParams) else MODELS[config.model]
    return kind.initial(config, image_shape, classes, key)
