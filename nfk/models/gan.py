"""A GAN as a trained network: the discriminator's logit as a log density (Zhai et al. 2019), and its checks."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, Key, PyTree, UInt8
from scipy.spatial.distance import pdist

from nfk.checkpoint import Checkpoint
from nfk.family_params import FamilyParams
from nfk.models.adversarial import Adversaries, Variables, part
from nfk.models.image_model import ImageModel
from nfk.training import Check, Progress, Trained, at_least, at_most, require_images, run_epochs, unit_range

Hidden = dict[str, Float[Array, "b ..."]]

_SAMPLE_CHUNK = 256


@dataclass(frozen=True)
class Gan(ImageModel):
    """A GAN as a `nfk.models.protocol.TrainedModel`: s(x) = D(x), theta the discriminator's raw kernels and
    biases, samples from the generator's moving average."""

    @classmethod
    def initial(cls, config: FamilyParams, image_shape: tuple[int, int, int], classes: int, key: Key[Array, ""]) -> Gan:
        """The untrained networks."""
        untrained = cls(config, image_shape, classes, {})
        return replace(untrained, variables=untrained.adversaries.initial(image_shape, key))

    @property
    @abstractmethod
    def adversaries(self) -> Adversaries:
        """The two networks, their loss and their optimisers."""

    @property
    def params(self) -> PyTree:
        """theta: the discriminator's kernels, before their spectral norm, and biases."""
        return self.variables["params"]["discriminator"]

    def log_density(self, params: PyTree, x: Float[Array, "h w c"], key: Key[Array, ""]) -> Float[Array, ""]:
        """s(x; theta) = D(x), the logit; the key is not used."""
        del key
        return self.judge(params, x[None])[0][0]

    def activations(self, x: Float[Array, "b h w c"]) -> Hidden:
        """The discriminator's hidden layers."""
        return self.judge(self.params, x)[1]

    def judge(self, params: PyTree, x: Float[Array, "b h w c"]) -> tuple[Float[Array, " b"], Hidden]:
        """The discriminator's logits and hidden layers, in the dtype of `params`, spectral norms frozen."""
        dtype = jax.tree.leaves(params)[0].dtype
        norms = jax.tree.map(lambda a: a.astype(dtype), self.variables["batch_stats"]["discriminator"])
        return self.adversaries.discriminator.apply({"params": params, "batch_stats": norms}, x.astype(dtype))

    def sample(self, key: Key[Array, ""], count: int) -> Float[np.ndarray, "n h w c"]:
        """G(z), z ~ N(0, I), of the averaged generator with fixed batch statistics."""
        chunks = -(-count // _SAMPLE_CHUNK)
        latents = jax.random.normal(key, (chunks, _SAMPLE_CHUNK, self.latents))
        return np.concatenate([self._images(z) for z in latents])[:count]

    @property
    def latents(self) -> int:
        """Numbers of a latent."""
        return self.adversaries.latent

    def generate(self, latents: Float[np.ndarray, "n z"]) -> Float[np.ndarray, "n h w c"]:
        """G(z) of each latent, in [0, 1], by the generator that `sample` takes (`nfk.models.protocol.Generator`)."""
        missing = -len(latents) % _SAMPLE_CHUNK  # whole chunks: one compilation
        padded = np.pad(np.asarray(latents, np.float32), ((0, missing), (0, 0)))
        chunks = jnp.asarray(padded.reshape(-1, _SAMPLE_CHUNK, self.latents))
        return np.concatenate([self._images(z) for z in chunks])[: len(latents)]

    def _images(self, latents: Float[Array, "b z"]) -> Float[np.ndarray, "b h w c"]:
        return np.asarray(_generate(self.adversaries.generator, part(self.variables, "generator"), latents))

    def train(
        self,
        images: UInt8[np.ndarray, "n h w c"],
        labels: Int32[np.ndarray, " n"],
        validation: tuple[UInt8[np.ndarray, "m h w c"], Int32[np.ndarray, " m"]],
        key: Key[Array, ""],
        progress: Progress | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> Trained[Gan]:
        """Alternate one Adam step of the discriminator and one of the generator; labels are not used.

        Equal keys give equal networks. Raises TrainingError where a loss is not finite.
        """
        require_images(images, labels, self.image_shape, self.classes, self.config.batch)
        epochs_key, statistics_key, check_key = jax.random.split(key, 3)
        state, history = run_epochs(
            self.adversaries.step, self.adversaries.start(self.variables), images, labels,
            batch=self.config.batch, epochs=self.config.epochs, key=epochs_key, progress=progress,
            checkpoint=checkpoint)
        trained = replace(self, variables=self.adversaries.finish(state, statistics_key))
        metrics, checks = appraise(trained, images, validation[0], history, check_key)
        return Trained(trained, history, metrics, checks)


@partial(jax.jit, static_argnums=0)
def _generate(generator: nn.Module, variables: Variables, z: Float[Array, "b latent"]) -> Float[Array, "b h w c"]:
    return generator.apply(variables, z)


def appraise(
    trained: Gan,
    images: UInt8[np.ndarray, "n h w c"],
    held_out: UInt8[np.ndarray, "m h w c"],
    history: dict[str, list[float]],
    key: Key[Array, ""],
) -> tuple[dict[str, float], list[Check]]:
    """The metrics of a network and of its training's history, and whether either side of it has given up.

    A discriminator whose loss is under a twentieth of an ignorant one's has won.
    """
    loss = trained.adversaries.loss
    count = min(256, len(images), len(held_out))
    samples = trained.sample(key, count)
    real = np.asarray(unit_range(jnp.asarray(images[:count])))
    judge = jax.jit(lambda x: trained.judge(trained.params, x)[0])
    on_samples, on_real = judge(jnp.asarray(samples)), judge(jnp.asarray(real))
    on_held_out = judge(unit_range(jnp.asarray(held_out[:count])))
    last = slice(-max(1, len(history["discriminator_loss"]) // 10), None)
    metrics = {
        f"validation_{loss.name}_loss": float(loss.discriminator(on_held_out, on_samples)),
        "logit_gap_train_validation": float(on_real.mean() - on_held_out.mean()),
        "diversity": mean_distance(samples) / mean_distance(real),
        "last_discriminator_loss": float(np.mean(history["discriminator_loss"][last])),
        "last_discriminator_accuracy": float(np.mean(history["discriminator_accuracy"][last])),
    }
    return metrics, [
        at_least("samples as diverse as images", metrics["diversity"], 0.5,
                 "the generator has collapsed; lower learning_rate or train with another seed"),
        at_least("discriminator still learns", metrics["last_discriminator_loss"], 0.05 * loss.ignorance,
                 "the discriminator has won and its gradient vanishes; lower width or raise generator_width"),
        at_most("discriminator still errs", metrics["last_discriminator_accuracy"], 0.995,
                "the discriminator tells every image; lower width or raise generator_width"),
    ]


def mean_distance(images: Float[np.ndarray, "n h w c"]) -> float:
    """The mean Euclidean distance between two different images."""
    return float(pdist(images.reshape(len(images), -1)).mean())
