"""What every training shares: seeded epochs of whole batches, a guard against divergence, the result.

A network brings its own step; nothing here knows a model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, SupportsFloat, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int32, Key, PyTree, UInt8

from nfk.checkpoint import Checkpoint, Forgetful

Model = TypeVar("Model")
State = Any
Terms = dict[str, Array]
"""Scalars of one step by name, such as losses."""

Step = Callable[[State, np.ndarray, np.ndarray, Array], tuple[State, Terms]]
"""(state, uint8 images (b, h, w, c), int32 labels (b), key) -> (next state, terms); usually jitted."""

Progress = Callable[[int, int, str], None]
"""(examples done, examples in all, note): called a few times a second at most."""

_REPORT_SECONDS = 0.5
_LOOKED_AT = 1024


class TrainingError(ValueError):
    """A training cannot start or has diverged; the message is one line."""


@dataclass(frozen=True)
class Check:
    """One sanity check of a finished training. A failed check is reported with its remedy, never raised."""

    name: str
    passed: bool
    value: float
    bound: float
    remedy: str


def at_least(name: str, value: float, bound: float, remedy: str) -> Check:
    """The check that value >= bound."""
    return Check(name, bool(value >= bound), float(value), float(bound), remedy)


def at_most(name: str, value: float, bound: float, remedy: str) -> Check:
    """The check that value <= bound."""
    return Check(name, bool(value <= bound), float(value), float(bound), remedy)


@dataclass(frozen=True)
class Trained(Generic[Model]):
    """A trained network, `model`: `history` has one number an epoch under each name, `metrics` the final ones, `checks`
    what was looked at afterwards."""

    model: Model
    history: Mapping[str, Sequence[SupportsFloat]]
    metrics: Mapping[str, SupportsFloat]
    checks: list[Check]


def unit_range(images: UInt8[Array, "... h w c"]) -> Float[Array, "... h w c"]:
    """uint8 intensities as float32 in [0, 1]."""
    return images.astype(jnp.float32) / 255


def descend(
    optimiser: optax.GradientTransformation, gradient: PyTree, params: PyTree, moments: optax.OptState
) -> tuple[PyTree, optax.OptState]:
    """One step of the optimiser: the next params and moments."""
    # optax raises Python floats to the power of int32 counts, which strict promotion refuses
    with jax.numpy_dtype_promotion("standard"):
        update, moments = optimiser.update(gradient, moments, params)
        return optax.apply_updates(params, update), moments


def follow(average: optax.EmaState, params: PyTree, decay: float) -> optax.EmaState:
    """One step of the exponential moving average: a <- decay a + (1 - decay) params, from a = 0."""
    return optax.ema(decay, debias=False).update(params, average)[1]


def averaged(average: optax.EmaState, decay: float) -> PyTree:
    """The average of the params followed, weights decay^age normalised to sum to one."""
    with jax.numpy_dtype_promotion("standard"):
        return optax.tree.bias_correction(average.ema, decay, average.count)


def require_images(
    images: UInt8[np.ndarray, "n h w c"],
    labels: Int32[np.ndarray, " n"],
    image_shape: tuple[int, int, int],
    classes: int,
    batch: int,
) -> None:
    """Raise TrainingError unless the images are of `image_shape`, not all alike, every label is a class and a batch
    fits."""
    if images.shape[1:] != image_shape:
        raise TrainingError(f"images of shape {images.shape[1:]} do not fit a network made for "
                            f"{image_shape}; make the network for these images")
    if len(images) < batch:
        raise TrainingError(f"batch={batch} exceeds the {len(images)} training images; "
                            "lower it in params.yaml")
    if len(labels) != len(images):
        raise TrainingError(f"{len(labels)} labels for {len(images)} images; give one label an image")
    if labels.min() < 0 or labels.max() >= classes:
        raise TrainingError(f"labels span {labels.min()} to {labels.max()}, outside 0 to {classes - 1}; "
                            "correct the data's labels")
    if (images[:_LOOKED_AT] == images[0]).all():
        raise TrainingError(f"the first {len(images[:_LOOKED_AT])} training images are the same: there is nothing to "
                            "learn; check data.source")


def epoch_batches(key: Key[Array, ""], examples: int, batch: int) -> Int32[np.ndarray, "steps batch"]:
    """A random permutation of the rows in whole batches; the examples % batch rows left over sit out."""
    order = np.asarray(jax.random.permutation(key, examples), dtype=np.int32)
    return order[: examples // batch * batch].reshape(-1, batch)


def run_epochs(
    step: Step,
    state: State,
    images: UInt8[np.ndarray, "n h w c"],
    labels: Int32[np.ndarray, " n"],
    *,
    batch: int,
    epochs: int,
    key: Key[Array, ""],
    progress: Progress | None = None,
    validate: Callable[[State], dict[str, float]] | None = None,
    checkpoint: Checkpoint | None = None,
) -> tuple[State, dict[str, list[float]]]:
    """Run `step` over `epochs` shuffles of the data; return the last state and the history.

    The history holds, per epoch, the mean of each of the step's terms and what `validate` makes of the
    state. Equal keys give equal runs, bit for bit, whether or not one broke off and was begun again with the
    same `checkpoint`, which keeps state and history after an epoch when due. Raises TrainingError at the end
    of an epoch that met a term that is not finite, naming the step.

    Steps are dispatched one by one, so that progress is told within epochs of any length and a step may be
    any function; a `lax.scan` over DCGAN's steps saved 15 % of the time on CPU.
    """
    report = _Throttled(progress, epochs * (len(images) // batch * batch))
    checkpoint = Forgetful() if checkpoint is None else checkpoint
    first, state, history = _resumed(checkpoint, state)
    done = first * (len(images) // batch * batch)
    for epoch in range(first, epochs):
        shuffle_key, step_key = jax.random.split(jax.random.fold_in(key, epoch))
        met: list[Terms] = []
        for index, rows in enumerate(epoch_batches(shuffle_key, len(images), batch)):
            state, terms = step(state, images[rows], labels[rows], jax.random.fold_in(step_key, index))
            met.append(terms)
            done += batch
            report(done, partial(_note, epoch, epochs, terms))
        for name, values in _by_name(met):
            if not np.all(np.isfinite(values)):
                index = int(np.flatnonzero(~np.isfinite(values))[0])
                raise TrainingError(
                    f"{name}={values[index]} at step {epoch * len(met) + index + 1} (epoch {epoch + 1} of "
                    f"{epochs}): the training diverged; lower learning_rate in params.yaml")
            history.setdefault(name, []).append(float(values.mean()))
        for name, value in (validate(state) if validate else {}).items():
            history.setdefault(name, []).append(float(value))
        if checkpoint.due():
            _save(checkpoint, epoch + 1, state, history)
    return state, history


def _save(checkpoint: Checkpoint, epochs: int, state: State, history: dict[str, list[float]]) -> None:
    checkpoint.save("epochs", {
        "epochs": np.array([epochs]),
        **{f"history/{name}": np.array(values) for name, values in history.items()},
        **kept_leaves(state)})


def _resumed(checkpoint: Checkpoint, start: State) -> tuple[int, State, dict[str, list[float]]]:
    """Epochs done, state and history: what was saved, or the start."""
    kept = checkpoint.load("epochs")
    if kept is None:
        return 0, start, {}
    state = with_leaves(start, kept)
    history = {name.removeprefix("history/"): values.tolist() for name, values in kept.items()
               if name.startswith("history/")}
    return int(kept["epochs"][0]), state, history


def kept_leaves(state: State) -> dict[str, np.ndarray]:
    """The arrays of a state, named as a checkpoint keeps them."""
    return {f"state/{index}": np.asarray(leaf) for index, leaf in enumerate(jax.tree.leaves(state))}


def with_leaves(like: State, kept: Mapping[str, np.ndarray]) -> State:
    """A state in the structure of `like`, of what `kept_leaves` made."""
    leaves, structure = jax.tree.flatten(like)
    return jax.tree.unflatten(structure, [jnp.asarray(kept[f"state/{index}"]) for index in range(len(leaves))])


def _by_name(met: list[Terms]) -> Iterator[tuple[str, Float[np.ndarray, " steps"]]]:
    fetched = jax.device_get(met)
    return ((name, np.array([terms[name] for terms in fetched], dtype=np.float64)) for name in fetched[0])


def _note(epoch: int, epochs: int, terms: Terms) -> str:
    shown = ", ".join(f"{name.replace('_', ' ')} {float(value):.3g}" for name, value in terms.items())
    return f"epoch {epoch + 1} of {epochs}: {shown}"


class _Throttled:
    """Passes reports on a few times a second, and the last one always; notes are made only when passed on."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._next = progress, total, 0.0

    def __call__(self, done: int, note: Callable[[], str]) -> None:
        if self._progress and (done == self._total or time.monotonic() >= self._next):
            self._progress(done, self._total, note())
            self._next = time.monotonic() + _REPORT_SECONDS
