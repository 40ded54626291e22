"""`semi_supervised`: few labels and all images, by the embedding and by methods that train on both (the paper's
Table 2).

At each number of labels and each draw of them (`nfk.evaluation.few_labels.balanced_order`: the draws that `evaluate`
gives every representation) one small network is trained by each method of `nfk.studies.few_label_methods`. Beside them
logistic probes of the embedding and of as many principal components, which have seen all images but no label.

Per draw all methods share first weights, batches, augmentations, optimiser and number of steps. What is chosen: a
method's settings at each number of labels, by validation accuracy on the first draw, kept for the others; a probe's
strength, on every draw. Labels that choose are those of the whole validation split, for all alike. Test images are
read once for each draw, by what was chosen.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from nfk.evaluation.features import Features, Labels, pca, standardise
from nfk.evaluation.few_labels import FewLabels, balanced_order, few_labels
from nfk.evaluation.figures.names import called
from nfk.evaluation.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    End,
    label_ends,
    new_figure,
    styled,
)
from nfk.models.classifier import Classifier
from nfk.models.dcgan import Generator
from nfk.models.families import initial
from nfk.studies.few_label_methods.improved_gan import ImprovedGan
from nfk.studies.few_label_methods.mean_teacher import MeanTeacher
from nfk.studies.few_label_methods.method import Method, Network, Variables
from nfk.studies.few_label_methods.mixmatch import MixMatch
from nfk.studies.few_label_methods.mixup import Mixup
from nfk.studies.few_label_methods.supervised import Supervised
from nfk.studies.few_label_methods.training import Pool, Rows, Training, rows_of_steps
from nfk.studies.few_label_methods.vat import Vat
from nfk.studies.resumption import once
from nfk.studies.study import Findings, Material, Report, Table
from nfk.study_params import SemiSupervisedParams

_COLOURS = {"nfk": (BLUE, "-", "o"), "pca": (VERMILLION, "-", "s"), "supervised": (GREY, ":", "o"),
            "mixup": (ORANGE, "--", "^"), "vat": (PURPLE, "--", "v"), "mean_teacher": (SKY, "--", "D"),
            "mixmatch": (GREEN, "--", "P"), "improved_gan": (INK, "--", "X")}


class Tried(NamedTuple):
    """One setting on the first draw."""

    settings: dict[str, float]
    validation_accuracy: float


class Learnt(NamedTuple):
    """What one method reached with one number of labels."""

    test: FewLabels
    validation: tuple[float, ...]
    """accuracy on the validation split, by draw"""
    chosen: dict[str, float]
    tried: list[Tried]


def run(material: Material, params: SemiSupervisedParams, report: Report) -> Findings:
    labels = Labels(material.images.labels("train", material.labelled), material.images.labels("validation"),
                    material.images.labels("test"))
    if max(params.labels) > len(labels.train):
        raise ValueError(f"labels={max(params.labels)} exceeds the {len(labels.train)} labelled training images; lower "
                         "it in the study's entry of params.yaml")
    found: dict[str, Any] = {}
    for features in probes(material):
        probed = few_labels(standardise(features), labels, params.labels, draws=params.draws,
                            strengths=material.evaluate.strengths, seed=material.seed)
        found[features.name.partition("-")[0]] = {
            "title": called(features.name), "dimension": features.dimension,
            **{str(count): _recorded(result) for count, result in probed.items()}}
    network = _classifier(material, params, material.key("methods"))
    chosen_of = methods(params, material.images.shape)
    trainer = Trainer(material, params, network, labels, chosen_of, report)
    for method in chosen_of:
        found[method.name] = {"title": method.title}
        for count in params.labels:
            learnt = trainer.learn(method, count)
            found[method.name][str(count)] = {
                **_recorded(learnt.test), "validation": list(learnt.validation), "chosen": learnt.chosen,
                "tried": [tried._asdict() for tried in learnt.tried]}
    counts = [str(count) for count in params.labels]
    order = sorted(found, key=lambda name: -found[name][counts[0]]["mean"])
    rows = tuple((found[name]["title"], *(_shown(found[name][count]) for count in counts),
                  _settings(found[name], counts)) for name in order)
    best = found[order[0]]
    return Findings(
        f"{counts[0]} labels: {best[counts[0]]['mean']:.1%} by {best['title']}, first of {len(order)}",
        {"methods": found, "labels": list(params.labels), "draws": params.draws, "steps": trainer.steps,
         "network": params.network.model, "parameters": int(network.architecture["parameters"])},
        Table(("method", *(f"{count} labels, test % ± deviation" for count in counts), "chosen on the first draw"),
              rows),
        {"few_labels": _figure(found, params.labels)})


def probes(material: Material) -> list[Features]:
    """The embedding, and as many principal components of the pixels."""
    splits = {split: material.images.pixels(split, material.labelled if split == "train" else None)
              for split in ("train", "validation", "test")}
    pixels = Features("pixels", *((images.reshape(len(images), -1) / np.float32(255)) for images in splits.values()))
    embedding = Features("nfk", **{split: np.asarray(material.embeddings[split][: len(images)])
                                   for split, images in splits.items()})
    rank = min(embedding.dimension, *pixels.train.shape)
    return [replace(embedding, name=f"nfk-{embedding.dimension}"),
            pca(pixels, rank, name=f"pca-{rank}", seed=material.seed)]


def methods(params: SemiSupervisedParams, image_shape: tuple[int, int, int]) -> list[Method]:
    """Those that are asked for, in that order."""
    made: dict[str, Method] = {method.name: method for method in (
        Supervised(params.supervised_rates), Mixup(params.mixup_alphas), Vat(params.vat_sizes),
        MeanTeacher(params.mean_teacher_weights, params.mean_teacher_decay, params.ramp),
        MixMatch(params.mixmatch_weights, params.mixmatch_temperature, params.mixmatch_alpha,
                 params.mixmatch_augmentations, params.ramp),
        ImprovedGan(params.improved_gan_weights, Generator(params.generator_width, image_shape),
                    params.generator_latent, params.generator_learning_rate))}
    return [made[name] for name in params.methods]


class Trainer:
    """Trains by any of the methods; what is done is kept in the material's checkpoint."""

    def __init__(self, material: Material, params: SemiSupervisedParams, network: Classifier, labels: Labels,
                 asked: list[Method], report: Report) -> None:
        self._material, self._params, self._network, self._labels = material, params, network, labels
        images = material.images.pixels("train")
        batch = params.network.batch
        if len(images) < batch:
            raise ValueError(f"network.batch={batch} exceeds the {len(images)} training images; lower it in the "
                             "study's entry of params.yaml")
        self.steps = params.network.epochs * (len(images) // batch)
        # labels beyond the drawn rows are never read; those of images that have none here are 0
        known = np.zeros(len(images), np.int32)
        known[: len(labels.train)] = labels.train
        self._pool = Pool(jnp.asarray(images), jnp.asarray(known))
        self._held_out = material.images.pixels("validation"), material.images.pixels("test")
        runs = sum(len(method.grid) + params.draws - 1 for method in asked) * len(params.labels)
        self._report, self._done, self._all = report, 0, runs * self.steps

    def learn(self, method: Method, count: int) -> Learnt:
        """The method's accuracies with so many labels, by settings chosen on the first draw."""
        grid = [(settings, self._trained(method, count, 0, settings)) for settings in method.grid]
        tried = [Tried(settings, self._accuracy(variables, "validation")) for settings, variables in grid]
        best = max(range(len(grid)), key=lambda index: tried[index].validation_accuracy)
        chosen, first = grid[best]
        each = [first, *(self._trained(method, count, draw, chosen) for draw in range(1, self._params.draws))]
        test = tuple(self._accuracy(variables, "test") for variables in each)
        return Learnt(FewLabels(float(np.mean(test)), float(np.std(test, ddof=1)), test),
                      tuple(self._accuracy(variables, "validation") for variables in each), chosen, tried)

    def _trained(self, method: Method, count: int, draw: int, settings: dict[str, float]) -> Variables:
        material, before = self._material, self._done
        self._done += self.steps
        setting = "-".join(f"{name}-{value:g}" for name, value in settings.items())
        key = jax.random.fold_in(material.key("methods"), draw)
        weights_key, steps_key = jax.random.split(key)
        start = _classifier(material, self._params, weights_key)
        training = Training(method, Network(start.network), start.recipe, start.classes, self.steps,
                            max(2, self._params.mixmatch_augmentations))
        what = f"{method.title}, {count} labels, draw {draw + 1}"
        return once(
            material.checkpoint, f"{method.name}-{count}-{draw}-{setting}", start.variables,
            lambda checkpoint: training.run(
                start.variables, self._pool, self._rows(count, draw), settings, steps_key, checkpoint=checkpoint,
                report=lambda done: self._report(before + done, self._all, what)))

    def _rows(self, count: int, draw: int) -> Rows:
        seed = self._material.seed
        labelled: Int[np.ndarray, " k"] = balanced_order(self._labels.train, count, seed=seed, draw=draw)
        return rows_of_steps(labelled, len(self._pool.images), steps=self.steps, batch=self._params.network.batch,
                             seed=(seed, draw))

    def _accuracy(self, variables: Variables, split: str) -> float:
        images = self._held_out[split == "test"]
        return replace(self._network, variables=variables).accuracy(images, getattr(self._labels, split))


def _classifier(material: Material, params: SemiSupervisedParams, key: Key[Array, ""]) -> Classifier:
    images = material.images
    return cast(Classifier, initial(params.network, images.shape, len(images.class_names), key))


def _recorded(result: FewLabels) -> dict[str, Any]:
    return {"mean": result.mean, "standard_deviation": result.standard_deviation, "draws": list(result.draws)}


def _shown(result: dict[str, Any]) -> str:
    return f"{100 * result['mean']:.1f} ± {100 * result['standard_deviation']:.1f}"


def _settings(found: dict[str, Any], counts: list[str]) -> str:
    """A method's choices by number of labels; a probe has none of this kind."""
    if "chosen" not in found[counts[0]]:
        return "strength, on each draw"
    (name,) = found[counts[0]]["chosen"]
    return f"{name} {', '.join(format(found[count]['chosen'][name], 'g') for count in counts)}"


@styled
def _figure(found: dict[str, Any], counts: tuple[int, ...]) -> Figure:
    figure = new_figure(7.2, 4.4)
    axes = figure.subplots()
    axes.set_xscale("log")
    ends = []
    for name, result in found.items():
        colour, line, marker = _COLOURS[name]
        each = [result[str(count)] for count in counts]
        means = [100 * one["mean"] for one in each]
        axes.errorbar(counts, means, yerr=[100 * one["standard_deviation"] for one in each], color=colour,
                      linestyle=line, marker=marker, markersize=4.5, linewidth=1.4,
                      zorder=4 if name == "nfk" else 3)
        ends.append(End(means[-1], f"{result['title']}  {means[-1]:.1f}", colour))
    axes.set_xlim(min(counts) * 0.92, max(counts) * 1.08)
    axes.xaxis.set_major_locator(FixedLocator(list(counts)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(list(counts), [f"{count:,}" for count in counts])
    axes.set_xlabel("Labels")
    axes.set_ylabel("Test accuracy, % (± deviation over draws)")
    axes.set_title("Few labels: linear probes (solid), trained networks (broken)")
    label_ends(axes, ends)
    return figure
