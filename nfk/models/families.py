"""The networks there are, by the name `model` has in params.yaml."""

from __future__ import annotations

from jaxtyping import Array, Key

from nfk.family_params import AnyFamily, CustomParams
from nfk.models.classifier import Lenet5, Mlp
from nfk.models.conv_vae import ConvVae
from nfk.models.custom import Custom
from nfk.models.dcgan import Dcgan

Model = Dcgan | ConvVae | Lenet5 | Mlp | Custom

MODELS: dict[str, type[Model]] = {"dcgan": Dcgan, "conv_vae": ConvVae, "lenet5": Lenet5, "mlp": Mlp}


def initial(config: AnyFamily, image_shape: tuple[int, int, int], classes: int, key: Key[Array, ""]) -> Model:
    """The untrained network that `config` describes, for images and classes of one data set."""
    kind = Custom if isinstance(config, CustomParams) else MODELS[config.model]
    return kind.initial(config, image_shape, classes, key)
