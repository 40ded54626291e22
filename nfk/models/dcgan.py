"""DCGAN: a convolutional generator against a spectrally normalised discriminator, trained by the hinge loss.

Radford, Metz, Chintala 2016 (architecture); Miyato et al. 2018 (spectral norm).
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from nfk.family_params import DcganParams
from nfk.models.adversarial import Adam, Adversaries
from nfk.models.adversarial_loss import HINGE
from nfk.models.convolution import Conv, DoublingConvolution
from nfk.models.gan import Gan


class Discriminator(nn.Module):
    """D(x), the raw logit: stride-2 4x4 convolutions of width, 2 width, 4 width channels, then dense to 1.

    Leaky ReLU of slope 0.2. Every kernel W enters as W / (v^T W u), where u and v are the left and right
    vectors of one power iteration from the stored u, constants to every gradient.
    """

    width: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], update_stats: bool = False
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, "b ..."]]]:
        """The logits of images in [0, 1], and the hidden layers' outputs by name."""
        hidden = {}
        x = 2 * x - 1
        for layer in range(3):
            conv = Conv(self.width * 2**layer, (4, 4), (2, 2), name=f"conv_{layer}")
            x = nn.SpectralNorm(conv, name=f"norm_{layer}")(x, update_stats=update_stats)
            x = hidden[f"conv_{layer}"] = nn.leaky_relu(x, 0.2)
        dense = nn.Dense(1, name="dense")
        logits = nn.SpectralNorm(dense, name="norm_dense")(x.reshape(len(x), -1), update_stats=update_stats)
        return logits[:, 0], hidden


class Generator(nn.Module):
    """G(z): dense to 4 width channels at a quarter of the size, then two transposed convolutions of stride 2.

    Batch norm and ReLU between them. Images whose sides are no multiple of 4 are cropped from larger ones.
    """

    width: int
    image_shape: tuple[int, int, int]

    @nn.compact
    def __call__(self, z: Float[Array, "b latent"], train: bool = False) -> Float[Array, "b h w c"]:
        """Images in [0, 1]; `train` normalises by the batch's own statistics, and stores just those."""
        height, width, channels = self.image_shape
        rows, columns = -(-height // 4), -(-width // 4)

        def normalised(x: Array, name: str) -> Array:
            return nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.0, name=name)(x))

        x = nn.Dense(rows * columns * 4 * self.width, use_bias=False, name="dense")(z)
        x = normalised(x.reshape(len(z), rows, columns, 4 * self.width), "norm_0")
        x = normalised(DoublingConvolution(2 * self.width, use_bias=False, name="double_0")(x), "norm_1")
        x = DoublingConvolution(channels, name="double_1")(x)
        return (jnp.tanh(x[:, :height, :width]) + 1) / 2


@dataclass(frozen=True)
class Dcgan(Gan):
    """A DCGAN; its activations are the three convolutions' outputs after their leaky ReLU."""

    config: DcganParams

    @property
    def adversaries(self) -> Adversaries:
        config, adam = self.config, Adam(self.config.learning_rate, b1=0.5, b2=0.99)
        return Adversaries(
            Discriminator(config.width), Generator(config.generator_width, self.image_shape), config.latent, HINGE,
            discriminator_adam=adam, generator_adam=adam, ema=config.ema)
