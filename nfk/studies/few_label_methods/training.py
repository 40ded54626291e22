"""One training of a classifier on few labels by one method, resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Int32, Key, UInt8

from nfk.checkpoint import Checkpoint
from nfk.models.classifier import Recipe
from nfk.studies.few_label_methods.method import Batch, Kept, Method, Moment, Network, Settings, Variables
from nfk.studies.resumption import restored, saved
from nfk.training import unit_range

_DISPATCHED = 20
"""Steps sent ahead of their results."""


class Pool(NamedTuple):
    """All training images, and the labels that may be used, on the device."""

    images: UInt8[Array, "n h w c"]
    labels: Int32[Array, " n"]
    """those outside the labelled rows are never read"""


class Rows(NamedTuple):
    """Which images each step sees."""

    labelled: Int32[np.ndarray, "steps batch"]
    unlabelled: Int32[np.ndarray, "steps batch"]


class State(NamedTuple):
    variables: Variables
    moments: optax.OptState
    kept: Kept


@dataclass(frozen=True)
class Training:
    """A method, a network and how it learns, for so many steps. Hashable: equal ones are compiled once."""

    method: Method
    network: Network
    recipe: Recipe
    classes: int
    steps: int
    views: int
    """augmentations of each unlabelled image"""

    @property
    def optimiser(self) -> optax.GradientTransformation:
        return self.recipe.optimiser(self.steps)

    def run(
        self, variables: Variables, pool: Pool, rows: Rows, settings: dict[str, float], key: Key[Array, ""], *,
        checkpoint: Checkpoint, report: Callable[[int], None],
    ) -> Variables:
        """The weights that classify, after all steps from `variables`. Equal arguments give equal weights, whether or
        not a run was cut off and begun again with the same checkpoint. `report` is given the steps done."""
        start_key, steps_key = jax.random.split(key)
        start = State(variables, self.optimiser.init(variables["params"]), self.method.begin(
            self.network, variables, jnp.zeros((2, *pool.images.shape[1:])), start_key))
        first, state = restored(checkpoint, "state", start)
        values = {name: jnp.float32(value) for name, value in settings.items()}
        for index in range(first, self.steps):
            state = self.step(state, pool, rows.labelled[index], rows.unlabelled[index], values,
                              jnp.float32(index / self.steps), jax.random.fold_in(steps_key, index))
            if (index + 1) % _DISPATCHED == 0 or index + 1 == self.steps:
                jax.block_until_ready(state)
                report(index + 1)
                if checkpoint.due():
                    saved(checkpoint, "state", index + 1, state)
        return self.method.read(state.variables, state.kept)

    @partial(jax.jit, static_argnums=0)
    def step(
        self, state: State, pool: Pool, labelled: Int[Any, " b"], unlabelled: Int[Any, " u"], settings: Settings,
        progress: Float[Array, ""], key: Key[Array, ""],
    ) -> State:
        """One step of the classifier, and of what the method keeps."""
        batch_key, loss_key, after_key = jax.random.split(key, 3)
        batch = self._batch(pool, labelled, unlabelled, batch_key)

        def loss(params: Any) -> tuple[Array, Variables]:
            return self.method.loss(self.network, {**state.variables, "params": params}, state.kept, batch,
                                    Moment(settings, progress, loss_key))

        params = state.variables["params"]
        gradient, statistics = jax.grad(loss, has_aux=True)(params)
        # optax raises Python floats to the power of int32 counts, which strict promotion refuses
        with jax.numpy_dtype_promotion("standard"):
            update, moments = self.optimiser.update(gradient, state.moments, params)
        rate = settings.get("rate", 1.0)
        variables = {"params": jax.tree.map(lambda leaf, by: leaf + rate * by, params, update), **statistics}
        kept = self.method.after(self.network, variables, state.kept, batch, Moment(settings, progress, after_key))
        return State(variables, moments, kept)

    def _batch(self, pool: Pool, labelled: Int[Array, " b"], unlabelled: Int[Array, " u"], key: Key[Array, ""]
               ) -> Batch:
        labelled_key, *view_keys = jax.random.split(key, 1 + self.views)
        views = [unit_range(self.recipe.augment(pool.images[unlabelled], view)) for view in view_keys]
        return Batch(unit_range(self.recipe.augment(pool.images[labelled], labelled_key)),
                     jax.nn.one_hot(pool.labels[labelled], self.classes), jnp.stack(views))


def rows_of_steps(labelled: Int[np.ndarray, " k"], images: int, *, steps: int, batch: int, seed: tuple[int, ...]
                  ) -> Rows:
    """The labelled rows, and those of all images, shuffle after shuffle, cut into batches."""
    rng = np.random.default_rng(seed)
    return Rows(*(np.concatenate(list(_shuffles(rows, steps * batch, rng)))[: steps * batch].reshape(steps, batch)
                  .astype(np.int32) for rows in (labelled, np.arange(images))))


def _shuffles(rows: Int[np.ndarray, " k"], most: int, rng: np.random.Generator) -> Iterator[Int[np.ndarray, " k"]]:
    for _ in range(-(-most // len(rows))):
        yield rng.permutation(rows)
