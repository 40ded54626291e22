"""DCGAN: a convolutional generator against a spectrally normalised discriminator, trained by the hinge loss.

Radford, Metz, Chintala 2016 (architecture); Lim, Ye 2017 (hinge loss); Miyato et al. 2018 (spectral norm);
Yazici et al. 2019 (moving average of the generator).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int32, Key, PyTree, UInt8
from scipy.spatial.distance import pdist

from nfk.checkpoint import Checkpoint
from nfk.family_params import DcganParams
from nfk.models.architecture import architecture
from nfk.models.convolution import Conv, DoublingConvolution
from nfk.training import (
    Check,
    Progress,
    Terms,
    Trained,
    at_least,
    at_most,
    averaged,
    descend,
    follow,
    require_images,
    run_epochs,
    unit_range,
)

Variables = dict[str, Any]

_SAMPLE_CHUNK = 256
_STATISTICS_LATENTS = 2048


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


def hinge_loss(real: Float[Array, " b"], fake: Float[Array, " m"]) -> Float[Array, ""]:
    """The discriminator's loss E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))]; 2 where D knows nothing."""
    return nn.relu(1 - real).mean() + nn.relu(1 + fake).mean()


class _State(NamedTuple):
    discriminator: Variables
    generator: Variables
    discriminator_moments: optax.OptState
    generator_moments: optax.OptState
    average: optax.EmaState


@dataclass(frozen=True)
class Dcgan:
    """A DCGAN as a `nfk.models.protocol.TrainedModel`: s(x) = D(x), theta the discriminator's raw kernels and
    biases, samples from the generator's moving average."""

    config: DcganParams
    image_shape: tuple[int, int, int]
    classes: int
    variables: Variables

    @classmethod
    def initial(
        cls, config: DcganParams, image_shape: tuple[int, int, int], classes: int, key: Key[Array, ""]
    ) -> Dcgan:
        """The untrained networks."""
        return cls(config, image_shape, classes, _initial(config, image_shape, key))

    @property
    def params(self) -> PyTree:
        """theta: the discriminator's kernels, before their spectral norm, and biases."""
        return self.variables["params"]["discriminator"]

    @property
    def architecture(self) -> dict[str, Any]:
        """What `initial` needs to make this network again, and theta's size."""
        return architecture(self.config, self.image_shape, self.classes, self.params)

    def log_density(self, params: PyTree, x: Float[Array, "h w c"], key: Key[Array, ""]) -> Float[Array, ""]:
        """s(x; theta) = D(x), the logit; the key is not used."""
        del key
        return self._discriminate(params, x[None])[0][0]

    def activations(self, x: Float[Array, "b h w c"]) -> dict[str, Float[Array, "b ..."]]:
        """The three convolutions' outputs after their leaky ReLU."""
        return self._discriminate(self.params, x)[1]

    def sample(self, key: Key[Array, ""], count: int) -> Float[np.ndarray, "n h w c"]:
        """G(z), z ~ N(0, I), of the averaged generator with fixed batch statistics."""
        generator = Generator(self.config.generator_width, self.image_shape)
        variables = _part(self.variables, "generator")
        chunks = -(-count // _SAMPLE_CHUNK)
        latents = jax.random.normal(key, (chunks, _SAMPLE_CHUNK, self.config.latent))
        return np.concatenate([np.asarray(_generate(generator, variables, z)) for z in latents])[:count]

    def _discriminate(
        self, params: PyTree, x: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, "b ..."]]]:
        dtype = jax.tree.leaves(params)[0].dtype
        norms = jax.tree.map(lambda a: a.astype(dtype), self.variables["batch_stats"]["discriminator"])
        variables = {"params": params, "batch_stats": norms}
        return Discriminator(self.config.width).apply(variables, x.astype(dtype))

    def train(
        self,
        images: UInt8[np.ndarray, "n h w c"],
        labels: Int32[np.ndarray, " n"],
        validation: tuple[UInt8[np.ndarray, "m h w c"], Int32[np.ndarray, " m"]],
        key: Key[Array, ""],
        progress: Progress | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> Trained[Dcgan]:
        """Alternate one Adam step of the discriminator and one of the generator; labels are not used.

        Equal keys give equal networks. Raises TrainingError where a loss is not finite.
        """
        require_images(images, labels, self.image_shape, self.classes, self.config.batch)
        epochs_key, statistics_key, check_key = jax.random.split(key, 3)
        adversaries = _Adversaries(self.config, self.image_shape)
        state, history = run_epochs(
            adversaries.step, adversaries.start(self.variables), images, labels,
            batch=self.config.batch, epochs=self.config.epochs, key=epochs_key, progress=progress,
            checkpoint=checkpoint)
        generator = {**state.generator, "params": averaged(state.average, self.config.ema)}
        trained = replace(self, variables=_joined(
            _settled(state.discriminator),
            _with_statistics(adversaries.generator, generator, statistics_key, self.config.latent)))
        metrics, checks = appraise(trained, images, validation[0], history, check_key)
        return Trained(trained, history, metrics, checks)


@dataclass(frozen=True)
class _Adversaries:
    """The two networks, their optimisers and one step of each."""

    config: DcganParams
    image_shape: tuple[int, int, int]

    @property
    def discriminator(self) -> Discriminator:
        return Discriminator(self.config.width)

    @property
    def generator(self) -> Generator:
        return Generator(self.config.generator_width, self.image_shape)

    @property
    def optimiser(self) -> optax.GradientTransformation:
        return optax.adam(self.config.learning_rate, b1=0.5, b2=0.99)

    def start(self, variables: Variables) -> _State:
        d, g = _part(variables, "discriminator"), _part(variables, "generator")
        return _State(d, g, self.optimiser.init(d["params"]), self.optimiser.init(g["params"]),
                      optax.ema(self.config.ema).init(g["params"]))

    @partial(jax.jit, static_argnums=0)
    def step(
        self, state: _State, images: UInt8[Array, "b h w c"], labels: Int32[Array, " b"], key: Key[Array, ""]
    ) -> tuple[_State, Terms]:
        del labels
        latents = jax.random.normal(key, (2, len(images), self.config.latent))
        discriminator, d_moments, d_terms = self._step_discriminator(state, unit_range(images), latents[0])
        generator, g_moments, g_terms = self._step_generator(state, discriminator, latents[1])
        average = follow(state.average, generator["params"], self.config.ema)
        return _State(discriminator, generator, d_moments, g_moments, average), d_terms | g_terms

    def _step_discriminator(
        self, state: _State, real: Float[Array, "b h w c"], latents: Float[Array, "b latent"]
    ) -> tuple[Variables, optax.OptState, Terms]:
        fake, _ = self.generator.apply(state.generator, latents, train=True, mutable=["batch_stats"])
        images = jnp.concatenate([real, fake])

        def loss(params: PyTree) -> tuple[Array, tuple[Variables, Terms]]:
            (logits, _), updated = self.discriminator.apply(
                {**state.discriminator, "params": params}, images, update_stats=True, mutable=["batch_stats"])
            on_real, on_fake = jnp.split(logits, 2)
            value = hinge_loss(on_real, on_fake)
            accuracy = (jnp.mean(on_real > 0) + jnp.mean(on_fake < 0)) / 2
            return value, (updated, {"discriminator_loss": value, "discriminator_accuracy": accuracy})

        params = state.discriminator["params"]
        gradient, (updated, terms) = jax.grad(loss, has_aux=True)(params)
        params, moments = descend(self.optimiser, gradient, params, state.discriminator_moments)
        return {"params": params, **updated}, moments, terms

    def _step_generator(
        self, state: _State, discriminator: Variables, latents: Float[Array, "b latent"]
    ) -> tuple[Variables, optax.OptState, Terms]:
        def loss(params: PyTree) -> tuple[Array, tuple[Variables, Terms]]:
            fake, updated = self.generator.apply(
                {**state.generator, "params": params}, latents, train=True, mutable=["batch_stats"])
            value = -self.discriminator.apply(discriminator, fake)[0].mean()
            return value, (updated, {"generator_loss": value})

        params = state.generator["params"]
        gradient, (updated, terms) = jax.grad(loss, has_aux=True)(params)
        params, moments = descend(self.optimiser, gradient, params, state.generator_moments)
        return {"params": params, **updated}, moments, terms


@partial(jax.jit, static_argnums=(0, 1))
def _initial(config: DcganParams, image_shape: tuple[int, int, int], key: Key[Array, ""]) -> Variables:
    d_key, g_key, statistics_key = jax.random.split(key, 3)
    networks = _Adversaries(config, image_shape)
    d = networks.discriminator.init(d_key, jnp.zeros((1, *image_shape)), update_stats=True)
    g = networks.generator.init(g_key, jnp.zeros((2, config.latent)), train=True)
    return _joined(_settled(d),
                   _with_statistics(networks.generator, g, statistics_key, config.latent))


def _part(variables: Variables, name: str) -> Variables:
    return {collection: parts[name] for collection, parts in variables.items()}


def _joined(discriminator: Variables, generator: Variables) -> Variables:
    return {collection: {"discriminator": discriminator[collection], "generator": generator[collection]}
            for collection in ("params", "batch_stats")}


@partial(jax.jit, static_argnums=0)
def _generate(
    generator: Generator, variables: Variables, z: Float[Array, "b latent"]
) -> Float[Array, "b h w c"]:
    return generator.apply(variables, z)


@jax.jit
def _settled(discriminator: Variables) -> Variables:
    """The discriminator with its kernels' exact leading singular vectors and values: training follows them by
    one power iteration a step, which nearly equal singular values hold back."""
    stats = {}
    for norm, stored in discriminator["batch_stats"].items():
        (name,) = (name.removesuffix("/u") for name in stored if name.endswith("/u"))
        layer, parameter = name.split("/")
        kernel = discriminator["params"][layer][parameter]
        _, values, right = jnp.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), full_matrices=False)
        stats[norm] = {f"{name}/u": right[:1], f"{name}/sigma": values[0]}
    return {"params": discriminator["params"], "batch_stats": stats}


@partial(jax.jit, static_argnums=(0, 3))
def _with_statistics(
    generator: Generator, variables: Variables, key: Key[Array, ""], latent: int
) -> Variables:
    """`variables` with batch statistics of their own: those met in training belong to other parameters, and
    averages of them to none."""
    latents = jax.random.normal(key, (_STATISTICS_LATENTS, latent))
    _, updated = generator.apply(variables, latents, train=True, mutable=["batch_stats"])
    return {"params": variables["params"], **updated}


def appraise(
    trained: Dcgan,
    images: UInt8[np.ndarray, "n h w c"],
    held_out: UInt8[np.ndarray, "m h w c"],
    history: dict[str, list[float]],
    key: Key[Array, ""],
) -> tuple[dict[str, float], list[Check]]:
    """The metrics of a network and of its training's history, and whether either side of it has given up."""
    count = min(256, len(images), len(held_out))
    samples = trained.sample(key, count)
    real = np.asarray(unit_range(jnp.asarray(images[:count])))
    judge = jax.jit(lambda x: trained._discriminate(trained.params, x)[0])
    on_samples, on_real = judge(jnp.asarray(samples)), judge(jnp.asarray(real))
    on_held_out = judge(unit_range(jnp.asarray(held_out[:count])))
    last = slice(-max(1, len(history["discriminator_loss"]) // 10), None)
    metrics = {
        "validation_hinge_loss": float(hinge_loss(on_held_out, on_samples)),
        "logit_gap_train_validation": float(on_real.mean() - on_held_out.mean()),
        "diversity": mean_distance(samples) / mean_distance(real),
        "last_discriminator_loss": float(np.mean(history["discriminator_loss"][last])),
        "last_discriminator_accuracy": float(np.mean(history["discriminator_accuracy"][last])),
    }
    return metrics, [
        at_least("samples as diverse as images", metrics["diversity"], 0.5,
                 "the generator has collapsed; lower learning_rate or train with another seed"),
        at_least("discriminator still learns", metrics["last_discriminator_loss"], 0.1,
                 "the discriminator has won and its gradient vanishes; lower width or raise generator_width"),
        at_most("discriminator still errs", metrics["last_discriminator_accuracy"], 0.995,
                "the discriminator tells every image; lower width or raise generator_width"),
    ]


def mean_distance(images: Float[np.ndarray, "n h w c"]) -> float:
    """The mean Euclidean distance between two different images."""
    return float(pdist(images.reshape(len(images), -1)).mean())
