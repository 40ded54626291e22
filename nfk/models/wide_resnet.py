"""Wide residual network: Zagoruyko, Komodakis 2016, on images of any size from 8x8."""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Key, PyTree, UInt8

from nfk.family_params import WideResnetParams
from nfk.models.classifier import Classifier, Hidden
from nfk.models.convolution import Conv
from nfk.models.torch_weights import TorchLayout
from nfk.training import TrainingError

_MOMENTUM = 0.95
"""Of the running batch statistics: an average over some 20 batches, short enough to have forgotten other weights by the
end of a cosine schedule, long enough that no single batch shows."""


class WideResNet(nn.Module):
    """Logits: a 3x3 convolution of 16 channels, three groups of (depth - 4) / 6 pre-activation blocks of 16, 32, 64
    times `width` channels, the second and third halving the size, then the mean over places and dense to classes."""

    depth: int
    width: int
    classes: int = 10
    momentum: float = _MOMENTUM

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> tuple[Float[Array, "b classes"], Hidden]:
        """`train` normalises by the batch's own statistics and updates the running ones."""
        def activated(x: Array, name: str) -> Array:
            norm = nn.BatchNorm(use_running_average=not train, momentum=self.momentum, name=name)
            return nn.relu(norm(x))

        hidden: Hidden = {}
        x = hidden["conv"] = Conv(16, (3, 3), use_bias=False, name="conv")(x)
        for group in range(3):
            channels = 16 * 2**group * self.width
            for block in range((self.depth - 4) // 6):
                name, strides = f"group_{group}_{block}", 2 if group and not block else 1
                inside = activated(x, f"{name}_norm_0")
                if x.shape[-1] != channels or strides != 1:
                    x = Conv(channels, (1, 1), (strides, strides), use_bias=False, name=f"{name}_skip")(inside)
                # the published network's border at either stride; SAME would move the halved maps by a pixel
                inside = Conv(channels, (3, 3), (strides, strides), 1, use_bias=False, name=f"{name}_conv_0")(inside)
                inside = activated(inside, f"{name}_norm_1")
                x = x + Conv(channels, (3, 3), use_bias=False, name=f"{name}_conv_1")(inside)
                hidden[name] = x
        x = hidden["penultimate"] = activated(x, "norm").mean(axis=(1, 2))
        logits = hidden["logits"] = nn.Dense(self.classes, name="dense")(x)
        return logits, hidden


@dataclass(frozen=True)
class CropAndFlip:
    """The usual recipe: Nesterov momentum 0.9, weight decay on kernels (not on norms and biases, which it would only
    pull off their scale), the rate falling by a cosine to zero; images cropped from a frame of zeros, some mirrored."""

    learning_rate: float
    weight_decay: float
    frame: int
    flip: bool

    def optimiser(self, steps: int) -> optax.GradientTransformation:
        def kernels(params: PyTree) -> PyTree:
            return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

        return optax.chain(
            optax.add_decayed_weights(self.weight_decay, kernels),
            optax.sgd(optax.cosine_decay_schedule(self.learning_rate, steps), momentum=0.9, nesterov=True))

    def augment(self, images: UInt8[Array, "b h w c"], key: Key[Array, ""]) -> UInt8[Array, "b h w c"]:
        crop_key, flip_key = jax.random.split(key)
        count, height, width, channels = images.shape
        frame = ((0, 0), (self.frame, self.frame), (self.frame, self.frame), (0, 0))
        corners = jax.random.randint(crop_key, (count, 2), 0, 2 * self.frame + 1)
        cropped = jax.vmap(lambda image, corner: lax.dynamic_slice(
            image, (corner[0], corner[1], 0), (height, width, channels)))(jnp.pad(images, frame), corners)
        if not self.flip:
            return cropped
        mirrored = jax.random.bernoulli(flip_key, shape=(count, 1, 1, 1))
        return jnp.where(mirrored, cropped[:, :, ::-1], cropped)


@dataclass(frozen=True)
class WideResnet(Classifier):
    """WRN-depth-width."""

    config: WideResnetParams

    def __post_init__(self) -> None:
        if min(self.image_shape[:2]) < 8:
            raise TrainingError(f"wide_resnet on images of {self.image_shape[:2]} pixels: needs 8 x 8 or more; "
                                "choose the model mlp in params.yaml")

    @property
    def network(self) -> WideResNet:
        return WideResNet(self.config.depth, self.config.width, self.classes)

    @property
    def torch_layout(self) -> TorchLayout:
        modules = {"conv": "conv1", "norm": "bn1", "dense": "fc"}
        for group in range(3):
            for block in range((self.config.depth - 4) // 6):
                ours, theirs = f"group_{group}_{block}", f"block{group + 1}.layer.{block}"
                modules |= {f"{ours}_skip": f"{theirs}.convShortcut"}
                for i in range(2):
                    modules |= {f"{ours}_conv_{i}": f"{theirs}.conv{i + 1}", f"{ours}_norm_{i}": f"{theirs}.bn{i + 1}"}
        return TorchLayout(modules)

    @property
    def recipe(self) -> CropAndFlip:
        config = self.config
        return CropAndFlip(config.learning_rate, config.weight_decay, config.crop, config.flip)
