"""The residual GAN of Zhai et al. 2019 ("Adversarial Fisher Vectors"): a spectrally normalised discriminator that
keeps most of its depth at a quarter of the image's size, against a residual generator.

After Miyato et al. 2018 (spectral norm, residual networks of this kind); sizes and pooling are those of the release.
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from nfk.family_params import ResnetGanParams
from nfk.models.adversarial import Adam, Adversaries
from nfk.models.adversarial_loss import HINGE, LEAST_SQUARES
from nfk.models.convolution import Conv
from nfk.models.gan import Gan
from nfk.models.resample import doubled, halved
from nfk.training import TrainingError


class Discriminator(nn.Module):
    """D(x), the raw logit: four pre-activation residual blocks of `width` channels, ReLU, global mean, dense to 1.

    A block is x -> conv(relu(conv(relu(x)))) + conv(x), all convolutions 3x3 (the first block has no first ReLU);
    the first two are halved by averages of 2x2 pixels, an odd last row or column left out. Every kernel W enters as
    W / (v^T W u), where u and v are the left and right vectors of one power iteration from the stored u, constants
    to every gradient.
    """

    width: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], update_stats: bool = False
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, "b ..."]]]:
        """The logits of images in [0, 1], and by name each block's inner layer after its ReLU and its output."""

        def convolved(x: Array, name: str) -> Array:
            conv = Conv(self.width, (3, 3), name=name)
            return nn.SpectralNorm(conv, name=f"norm_{name}")(x, update_stats=update_stats)

        hidden = {}
        x = 2 * x - 1
        for block in range(4):
            name = f"block_{block}"
            inner = nn.relu(convolved(nn.relu(x) if block else x, f"{name}_conv_0"))
            hidden[f"{name}_inner"] = inner
            x = convolved(inner, f"{name}_conv_1") + convolved(x, f"{name}_shortcut")
            if block < 2:
                x = halved(x)
            hidden[name] = x
        x = hidden["pooled"] = nn.relu(x).mean(axis=(1, 2))
        logits = nn.SpectralNorm(nn.Dense(1, name="dense"), name="norm_dense")(x, update_stats=update_stats)
        return logits[:, 0], hidden


class Generator(nn.Module):
    """G(z): dense to `width` channels at an eighth of the size, three residual blocks that double it, tanh.

    A block is x -> conv(relu(norm(conv(double(relu(norm(x))))))) + conv(double(x)), all convolutions 3x3, norm the
    batch's, double by repetition. Sides are rounded up where they are halved, and cropped where they are doubled.
    """

    width: int
    image_shape: tuple[int, int, int]

    @nn.compact
    def __call__(self, z: Float[Array, "b latent"], train: bool = False) -> Float[Array, "b h w c"]:
        """Images in [0, 1]; `train` normalises by the batch's own statistics, and stores just those."""
        (*sides, channels) = self.image_shape
        sizes = [[-(-side // shrink) for side in sides] for shrink in (8, 4, 2, 1)]
        rows, columns = sizes[0]

        def activated(x: Array, name: str) -> Array:
            return nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.0, name=name)(x))

        x = nn.Dense(rows * columns * self.width, name="dense")(z).reshape(len(z), rows, columns, self.width)
        for block, size in enumerate(sizes[1:]):
            name = f"block_{block}"
            inner = doubled(activated(x, f"{name}_norm_0"), *size)
            inner = activated(Conv(self.width, (3, 3), use_bias=False, name=f"{name}_conv_0")(inner), f"{name}_norm_1")
            inner = Conv(self.width, (3, 3), name=f"{name}_conv_1")(inner)
            x = inner + Conv(self.width, (3, 3), use_bias=False, name=f"{name}_shortcut")(doubled(x, *size))
        x = Conv(channels, (3, 3), name="out")(activated(x, "norm"))
        return (jnp.tanh(x) + 1) / 2


@dataclass(frozen=True)
class ResnetGan(Gan):
    """The residual GAN; Adam with b1 = 0, b2 = 0.9 (the release: 0.999)."""

    config: ResnetGanParams

    def __post_init__(self) -> None:
        if min(self.image_shape[:2]) < 4:
            raise TrainingError(f"resnet_gan on images of {self.image_shape[:2]} pixels: needs 4 x 4 or more; "
                                "choose the model dcgan in params.yaml")

    @property
    def adversaries(self) -> Adversaries:
        config = self.config
        return Adversaries(
            Discriminator(config.width), Generator(config.generator_width, self.image_shape), config.latent,
            {"hinge": HINGE, "least_squares": LEAST_SQUARES}[config.loss],
            discriminator_adam=Adam(config.learning_rate, b1=0.0, b2=0.9),
            generator_adam=Adam(config.generator_learning_rate, b1=0.0, b2=0.9),
            ema=config.ema, penalty=config.penalty, statistics_latents=512)
