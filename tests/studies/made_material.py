"""A study's material without a pipeline: a linear potential over random images, all known in closed form."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from nfk.checkpoint import Forgetful
from nfk.evaluation.features import Features
from nfk.fisher.scores import Scores
from nfk.fisher.statistics import identity_statistics
from nfk.params import EvaluateParams
from nfk.studies.study import KeptModes, Material


class Images:
    """Splits in memory."""

    def __init__(self, images: dict, labels: dict) -> None:
        self._images, self._labels = images, labels
        self.shape = images["train"].shape[1:]
        self.class_names = tuple(str(number) for number in range(int(max(map(np.max, labels.values()))) + 1))

    def pixels(self, split, most=None):
        return self._images[split][:most]

    def labels(self, split, most=None):
        return self._labels[split][:most]

    def examples(self, split, most=None):
        return self._images[split][:most].astype(np.float32) / np.float32(255)


class Linear:
    """s(x) = theta . x, so that the gradient is the image itself; its generator is linear in the latent."""

    def __init__(self, shape, latents=3, seed=0):
        self.latents = latents
        self._basis = np.random.default_rng(seed).normal(size=(latents, int(np.prod(shape)))).astype(np.float32)
        self._shape = shape
        self.params = {"theta": jnp.ones(int(np.prod(shape)), jnp.float32)}

    def log_density(self, params, x, key):
        return jnp.vdot(params["theta"], x.reshape(-1))

    def sample(self, key, count):
        return None

    def activations(self, x):
        return {}

    def generate(self, latents):
        return (0.5 + 0.02 * np.asarray(latents) @ self._basis).reshape(-1, *self._shape).astype(np.float32)


class Noisy(Linear):
    """The same with a noise the size of an image, added to it, and samples of its own."""

    @property
    def noise_shape(self):
        return self._shape

    def log_density_given(self, params, x, noise):
        noised = x if noise is None else x + 0.3 * noise.mean(axis=0).astype(x.dtype)
        return jnp.vdot(params["theta"], noised.reshape(-1).astype(params["theta"].dtype))

    def log_density(self, params, x, key):
        return self.log_density_given(params, x, None)

    def sample(self, key, count):
        return self.generate(np.random.default_rng(7).normal(size=(count, self.latents)))


def material(images: dict, labels: dict, rank: int, model=None) -> Material:
    """Of V = the training images themselves (identity statistics), its exact leading modes."""
    held = Images(images, labels)
    model = model or Linear(held.shape)
    scores = Scores(model.log_density, model.params)
    flat = {split: held.examples(split).reshape(len(each), -1) for split, each in images.items()}
    left, values, right = np.linalg.svd(flat["train"], full_matrices=False)
    right = np.ascontiguousarray(right[:rank].T)
    embeddings = {split: rows @ right for split, rows in flat.items()}

    def compared():
        return [Features(f"nfk-{rank}", *embeddings.values()), Features("pixels", *flat.values())]

    return Material(
        images=held, model=model, scores=scores, statistics=identity_statistics(scores.size), damping=0.0,
        unit_rows=False, memory_bytes=1 << 30, modes=KeptModes(values[:rank], left[:, :rank], right),
        embeddings=embeddings, labelled=len(images["train"]), block=16, seed=0, representations=compared,
        evaluate=EvaluateParams(labels=(), neighbours=(1,), strengths=(0.01, 0.1)), checkpoint=Forgetful())


def silent(done, total, what):
    """A report that goes nowhere."""


def two_classes(seed: int = 0, train: int = 60) -> tuple[dict, dict]:
    """Noisy images whose upper half is bright for class 1."""
    rng = np.random.default_rng(seed)
    images, labels = {}, {}
    for split, count in (("train", train), ("validation", 20), ("test", 30)):
        labels[split] = (np.arange(count) % 2).astype(np.int32)
        images[split] = rng.integers(0, 90, (count, 6, 6, 1)).astype(np.uint8)
        images[split][labels[split] == 1, :3] += 120
    return images, labels
