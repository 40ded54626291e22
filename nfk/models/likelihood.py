"""Training by the likelihood of images, or a lower bound of it: what all families but GANs and classifiers share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Int32, Key, PyTree, UInt8

from nfk.checkpoint import Checkpoint
from nfk.training import Progress, Terms, averaged, descend, follow, run_epochs

_CHUNK = 256


@runtime_checkable
class Objective(Protocol):
    """What is maximised; hashable, so that equal objectives are compiled once."""

    def terms(
        self, params: PyTree, images: UInt8[Array, "b h w c"], key: Key[Array, ""]
    ) -> dict[str, Float[Array, " b"]]:
        """Numbers of each image by name, in nats; the mean of the first is maximised, the others are told."""
        ...


class Fitted(NamedTuple):
    params: PyTree
    """The moving average of the parameters where `ema` > 0, else the last ones."""

    history: dict[str, list[float]]
    """Each term's mean by epoch, and as `validation_NAME` that of the held-out images."""


def fit(
    objective: Objective,
    params: PyTree,
    images: UInt8[np.ndarray, "n h w c"],
    labels: Int32[np.ndarray, " n"],
    held_out: UInt8[np.ndarray, "m h w c"],
    *,
    batch: int,
    epochs: int,
    learning_rate: float,
    key: Key[Array, ""],
    ema: float = 0.0,
    clip: float | None = None,
    cosine: bool = False,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> Fitted:
    """Adam on minus the mean of the objective's first term; labels are not used.

    The rate is constant, or falls by a cosine to zero; `clip` bounds the gradient's norm; `ema` is the decay a step
    of the moving average that is returned and judged. Held-out images are judged with one key throughout. Equal
    keys give equal parameters. Raises TrainingError where a term is not finite.
    """
    epochs_key, judge_key = jax.random.split(key)
    ascent = _Ascent(objective, learning_rate, epochs * (len(images) // batch) if cosine else None, clip, ema)

    def judged(state: _State) -> dict[str, float]:
        return {f"validation_{name}": value
                for name, value in mean_terms(objective, ascent.result(state), held_out, judge_key).items()}

    state, history = run_epochs(
        ascent.step, ascent.start(params), images, labels, batch=batch, epochs=epochs, key=epochs_key,
        progress=progress, checkpoint=checkpoint, validate=judged)
    return Fitted(ascent.result(state), history)


def mean_terms(
    objective: Objective, params: PyTree, images: UInt8[np.ndarray, "n h w c"], key: Key[Array, ""]
) -> dict[str, float]:
    """Each term's mean over the images, by blocks with a key each."""
    sums: dict[str, float] = {}
    for start in range(0, len(images), _CHUNK):
        block = _term_sums(objective, params, images[start : start + _CHUNK], jax.random.fold_in(key, start))
        sums = {name: sums.get(name, 0.0) + float(value) for name, value in block.items()}
    return {name: value / len(images) for name, value in sums.items()}


@partial(jax.jit, static_argnums=0)
def _term_sums(
    objective: Objective, params: PyTree, images: UInt8[Array, "b h w c"], key: Key[Array, ""]
) -> dict[str, Float[Array, ""]]:
    return {name: values.sum() for name, values in objective.terms(params, images, key).items()}


class _State(NamedTuple):
    params: PyTree
    moments: Any
    average: optax.EmaState | None


@dataclass(frozen=True)
class _Ascent:
    """One objective's optimiser and step."""

    objective: Objective
    learning_rate: float
    steps: int | None
    clip: float | None
    ema: float

    @property
    def optimiser(self) -> optax.GradientTransformation:
        rate = self.learning_rate if self.steps is None else optax.cosine_decay_schedule(self.learning_rate, self.steps)
        adam = optax.adam(rate)
        return adam if self.clip is None else optax.chain(optax.clip_by_global_norm(self.clip), adam)

    def start(self, params: PyTree) -> _State:
        return _State(params, self.optimiser.init(params), optax.ema(self.ema).init(params) if self.ema else None)

    def result(self, state: _State) -> PyTree:
        return state.params if state.average is None else averaged(state.average, self.ema)

    @partial(jax.jit, static_argnums=0)
    def step(
        self, state: _State, images: UInt8[Array, "b h w c"], labels: Int32[Array, " b"], key: Key[Array, ""]
    ) -> tuple[_State, Terms]:
        del labels

        def loss(params: PyTree) -> tuple[Array, Terms]:
            means = {name: values.mean() for name, values in self.objective.terms(params, images, key).items()}
            return -next(iter(means.values())), means

        gradient, terms = jax.grad(loss, has_aux=True)(state.params)
        params, moments = descend(self.optimiser, gradient, state.params, state.moments)
        average = None if state.average is None else follow(state.average, params, self.ema)
        return _State(params, moments, average), terms
