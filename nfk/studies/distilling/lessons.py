"""All students taught side by side: each batch is drawn, cropped and shown to the teacher once, then to every student.

So all start from the same weights and see the same images in the same order, and the teacher's share of the work is one
forward pass a batch, however many students there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int32, Key, PyTree, UInt8

from nfk.checkpoint import Checkpoint
from nfk.models.classifier import Classifier, Hidden, Recipe, Variables
from nfk.models.protocol import TrainedModel
from nfk.studies.distilling.candidates import Candidate
from nfk.studies.distilling.seen import Pair, Seen, compared
from nfk.training import Progress, Terms, descend, require_images, run_epochs, unit_range


class Trainee(NamedTuple):
    """One student on its way."""

    variables: Variables
    transfer: PyTree
    """the parameters of its transfer loss"""
    moments: optax.OptState


class Taught(NamedTuple):
    """What the students learn from."""

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int32[np.ndarray, " n"]
    embedding: Float[np.ndarray, "n k"]


def teach(
    student: Classifier,
    teacher: TrainedModel,
    candidates: Sequence[Candidate],
    taught: Taught,
    pairs: tuple[Pair, ...],
    *,
    key: Key[Array, ""],
    head_key: Key[Array, ""],
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> list[Variables]:
    """Train a student for each candidate, by the student's own recipe; their variables.

    Where the losses of a candidate are no numbers any more, so are its weights; TrainingError only where the student
    alone diverges. Holds all of them at once; costs a step of each and one pass of the teacher a batch.
    """
    config = student.config
    require_images(taught.images, taught.labels, student.image_shape, student.classes, config.batch)
    steps = config.epochs * (len(taught.images) // config.batch)
    lessons = [Lesson(student.network, student.recipe, steps, candidate.module, pairs) for candidate in candidates]
    weights = [(np.float32(candidate.cross_entropy), np.float32(candidate.transfer)) for candidate in candidates]
    # the label of an image is here its row, by which the step finds all that is known of it
    rows = np.arange(len(taught.images), dtype=np.int32)
    show = _shown_by(student.recipe, teacher, pairs)

    def start() -> list[Trainee]:
        seen, theirs = show(taught.images[: config.batch], key)
        embedding = taught.embedding[: config.batch]
        return [lesson.start(student.variables, seen, theirs, embedding, head_key) for lesson in lessons]

    def step(trainees: list[Trainee], images: np.ndarray, rows: np.ndarray, key: Array) -> tuple[list[Trainee], Terms]:
        seen, theirs = show(images, key)
        labels, embedding = taught.labels[rows], taught.embedding[rows]
        done = [lesson.step(trainee, seen, labels, theirs, embedding, weight)
                for lesson, trainee, weight in zip(lessons, trainees, weights, strict=True)]
        return [trainee for trainee, _ in done], {"loss": done[0][1]}

    trainees, _ = run_epochs(step, start(), taught.images, rows, batch=config.batch, epochs=config.epochs, key=key,
                             progress=progress, checkpoint=checkpoint)
    return [trainee.variables for trainee in trainees]


def _shown_by(
    recipe: Recipe, teacher: TrainedModel, pairs: tuple[Pair, ...]
) -> Callable[[np.ndarray, Array], tuple[Array, Hidden]]:
    """A batch as it is shown, and what the teacher makes of it."""
    needed = {"logits", *(theirs for _, theirs in pairs)}

    @jax.jit
    def show(images: UInt8[Array, "b h w c"], key: Key[Array, ""]) -> tuple[Float[Array, "b h w c"], Hidden]:
        seen = unit_range(recipe.augment(images, key))
        return seen, {name: output for name, output in teacher.activations(seen).items() if name in needed}

    return show


@dataclass(frozen=True)
class Lesson:
    """How one student learns; equal ones are compiled once, whatever their weights."""

    network: nn.Module
    recipe: Recipe
    steps: int
    module: nn.Module | None
    pairs: tuple[Pair, ...]

    @property
    def optimiser(self) -> optax.GradientTransformation:
        return self.recipe.optimiser(self.steps)

    def seen(
        self, logits: Float[Array, "b classes"], hidden: Hidden, theirs: Mapping[str, Array],
        embedding: Float[Array, "b k"],
    ) -> Seen:
        return Seen(compared(self.pairs, hidden, theirs), hidden["penultimate"], logits, theirs["logits"], embedding)

    @partial(jax.jit, static_argnums=0)
    def start(
        self, variables: Variables, images: Float[Array, "b h w c"], theirs: Hidden, embedding: Float[Array, "b k"],
        key: Key[Array, ""],
    ) -> Trainee:
        transfer: PyTree = {}
        if self.module is not None:
            logits, hidden = self.network.apply(variables, images)
            transfer = self.module.init(key, self.seen(logits, hidden, theirs, embedding))
        return Trainee(variables, transfer, self.optimiser.init((variables["params"], transfer)))

    @partial(jax.jit, static_argnums=0)
    def step(
        self, trainee: Trainee, images: Float[Array, "b h w c"], labels: Int32[Array, " b"], theirs: Hidden,
        embedding: Float[Array, "b k"], weights: tuple[Float[Array, ""], Float[Array, ""]],
    ) -> tuple[Trainee, Float[Array, ""]]:
        """One step on both networks' view of a batch; the next trainee and the cross-entropy."""
        def loss(params: tuple[PyTree, PyTree]) -> tuple[Array, tuple[Variables, Array]]:
            own, transfer = params
            (logits, hidden), updated = self.network.apply(
                {**trainee.variables, "params": own}, images, train=True, mutable=["batch_stats"])
            cross_entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            value = weights[0] * cross_entropy
            if self.module is not None:
                seen = self.seen(logits, hidden, theirs, embedding)
                value = value + weights[1] * self.module.apply(transfer, seen)
            return value, (updated, cross_entropy)

        params = (trainee.variables["params"], trainee.transfer)
        gradient, (updated, cross_entropy) = jax.grad(loss, has_aux=True)(params)
        (own, transfer), moments = descend(self.optimiser, gradient, params, trainee.moments)
        return Trainee({"params": own, **updated}, transfer, moments), cross_entropy


def top_classes(model: TrainedModel, images: UInt8[np.ndarray, "n h w c"], block: int) -> Int32[np.ndarray, " n"]:
    """The class of the largest logit of each image."""
    logits = jax.jit(lambda x: model.activations(x)["logits"])
    chunks = (unit_range(jnp.asarray(images[start : start + block])) for start in range(0, len(images), block))
    return np.concatenate([np.asarray(logits(chunk)).argmax(axis=1) for chunk in chunks]).astype(np.int32)
