"""`pretext`: what the layers of the family's discriminator learn by other means (baselines of the paper's Table 1).

The same layers, from other first weights, are trained three ways: to tell rotations (RotNet), as BiGAN's encoder, and
on the labels. The first two are read as `evaluate` reads activations: a logistic probe of all layers, pooled and side
by side, its strength chosen on the validation split; of BiGAN's encoder also its output alone. The last classifies
itself. Beside them the probe of the same layers untrained. The lengths of the trainings are given, not chosen.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure

from nfk.checkpoint import Checkpoint
from nfk.evaluation.accuracy import accuracy
from nfk.evaluation.features import Features, Labels, concatenate, standardise
from nfk.evaluation.figures.bars import ranked_bars
from nfk.evaluation.figures.images import labelled_rows
from nfk.evaluation.linear_probe import logistic_probe
from nfk.models.adversarial import Adversaries
from nfk.studies.pretext_tasks.bigan import BiGan, JointDiscriminator, Players
from nfk.studies.pretext_tasks.body import Headed, Variables, outputs, started
from nfk.studies.pretext_tasks.classes import ROTATIONS, Labelled, RotNet, rotations
from nfk.studies.resumption import once
from nfk.studies.study import Findings, Material, Report, Table
from nfk.study_params import PretextParams
from nfk.training import Progress, run_epochs

Layers = dict[str, list[Float[np.ndarray, "_ _"]]]
"""By layer the rows of the three splits."""

_SPLITS = ("train", "validation", "test")
_TITLES = {"untrained": "untrained, all layers", "rotnet": "RotNet, all layers", "bigan": "BiGAN's encoder, all layers",
           "bigan-encoder": "BiGAN's encoder, its output", "supervised": "trained on the labels"}
_SHOWN = 12


def run(material: Material, params: PretextParams, report: Report) -> Findings:
    work = _Work(material, params, report)
    found: dict[str, Any] = {"untrained": work.probed("untrained", work.untrained())}
    figures: dict[str, Figure] = {}
    if "rotnet" in params.methods:
        network, variables = work.rotnet()
        found["rotnet"] = work.probed("rotnet", work.layers(network, variables)) | {
            "validation_rotation_accuracy": work.rotations_told(network, variables)}
    if "bigan" in params.methods:
        bigan, players = work.bigan()
        each = work.layers(bigan.encoder, players.encoder.variables)
        found["bigan"] = work.probed("bigan", each)
        found["bigan-encoder"] = work.probed("bigan-encoder", {"head": each["head"]})
        figures["bigan"] = labelled_rows({"image": work.pixels["validation"][:_SHOWN] / np.float32(255),
                                          "G(E(image))": work.reconstructed(bigan, players, _SHOWN)})
    if "supervised" in params.methods:
        found["supervised"] = work.classified(*work.supervised())
    order = sorted(found, key=lambda name: -found[name]["accuracy"])
    rows = tuple((_TITLES[name], str(found[name]["dimension"] or "–"), _percent(found[name])) for name in order)
    return Findings(
        f"{found[order[0]]['accuracy']:.1%} by {_TITLES[order[0]]}, first of {len(order)}",
        {"features": found, "parameters": work.parameters},
        Table(("the discriminator's layers", "numbers", "test, %"), rows),
        {"accuracies": ranked_bars(
            {_TITLES[name]: (100 * one["accuracy"], 100 * one["standard_error"]) for name, one in found.items()},
            ours=[title for name, title in _TITLES.items() if name != "untrained"], label="Test accuracy, %",
            title="The discriminator's layers, trained by other means",
            limits=(max(0.0, 100 * found[order[-1]]["accuracy"] - 8), 100.0)), **figures})


class _Work:
    """The trainings and the probes; a finished training is kept in the material's checkpoint."""

    def __init__(self, material: Material, params: PretextParams, report: Report) -> None:
        found: Adversaries | None = getattr(material.model, "adversaries", None)
        if found is None:
            raise ValueError(f"family={params.family} has no discriminator, whose layers a pretext study trains; name "
                             "a family of model dcgan or resnet_gan in the study's entry of params.yaml")
        self._adversaries, self._material, self._params, self._report = found, material, params, report
        height, width, _ = material.images.shape
        if height != width and "rotnet" in params.methods:
            raise ValueError(f"images of {height} x {width} pixels: turned by a right angle they are of another shape; "
                             "leave rotnet out of the study's methods, or resize them to squares by data.resize")
        self.pixels = {split: material.images.pixels(split) for split in _SPLITS}
        if len(self.pixels["train"]) < params.batch:
            raise ValueError(f"batch={params.batch} exceeds the {len(self.pixels['train'])} training images; lower it "
                             "in the study's entry of params.yaml")
        self.labels = Labels(material.images.labels("train", material.labelled),
                             *(material.images.labels(split) for split in _SPLITS[1:]))
        self._classes = len(material.images.class_names)
        untrained = started(self._headed(self._classes), material.images.shape, self._key("untrained"))
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(untrained["params"]))
        self._untrained = untrained

    def untrained(self) -> Layers:
        return self.layers(self._headed(self._classes), self._untrained)

    def rotnet(self) -> tuple[Headed, Variables]:
        return self._fitted(RotNet, ROTATIONS, self.pixels["train"])

    def supervised(self) -> tuple[Headed, Variables]:
        return self._fitted(Labelled, self._classes, self.pixels["train"][: len(self.labels.train)])

    def bigan(self) -> tuple[BiGan, Players]:
        adversaries, params = self._adversaries, self._params
        made = BiGan(self._headed(adversaries.latent), adversaries.generator,
                     JointDiscriminator(adversaries.discriminator, params.bigan_hidden), params.bigan_learning_rate)
        key, train_key = jax.random.split(self._key("bigan"))
        start = made.start(self._material.images.shape, key)
        train = self.pixels["train"]

        def trained(checkpoint: Checkpoint) -> Players:
            return run_epochs(made.step, start, train, np.zeros(len(train), np.int32), batch=params.batch,
                              epochs=params.bigan_epochs, key=train_key, progress=self._told("BiGAN"),
                              checkpoint=checkpoint)[0]

        return made, once(self._material.checkpoint, "bigan", start, trained)

    def _fitted(self, task: type[Labelled], classes: int, images: UInt8[np.ndarray, "n h w c"]
                ) -> tuple[Headed, Variables]:
        params, network = self._params, self._headed(classes)
        made = task(network, params.learning_rate, params.epochs * (len(images) // params.batch))
        key, train_key = jax.random.split(self._key(task.__name__))
        variables = started(network, self._material.images.shape, key)
        # rotations are made of all images, and their labels are not read
        labels = self.labels.train if task is Labelled else np.zeros(len(images), np.int32)

        def trained(checkpoint: Checkpoint) -> Variables:
            state, _ = run_epochs(made.step, made.start(variables), images, labels, batch=params.batch,
                                  epochs=params.epochs, key=train_key, progress=self._told(task.title),
                                  checkpoint=checkpoint)
            return state.variables

        return network, once(self._material.checkpoint, task.__name__.lower(), variables, trained)

    def layers(self, network: Headed, variables: Variables) -> Layers:
        """By layer, for each split; of the training images those whose labels may be used."""
        most = {"train": len(self.labels.train), "validation": None, "test": None}
        each = [outputs(network, variables, self.pixels[split][: most[split]]) for split in _SPLITS]
        return {name: [split[name] for split in each] for name in each[0]}

    def probed(self, name: str, each: Layers) -> dict[str, Any]:
        """A logistic probe of these layers side by side, and of the head's output only where it is alone."""
        self._report(0, 1, f"probe of {_TITLES[name]}")
        features = concatenate([Features(layer, *rows) for layer, rows in each.items()
                                if layer != "head" or len(each) == 1], name=name)
        probe = logistic_probe(standardise(features), self.labels, self._material.evaluate.strengths)
        self._report(1, 1, f"probe of {_TITLES[name]}")
        return {"dimension": features.dimension, **{key: value for key, value in probe._asdict().items()
                                                    if key != "predictions"}}

    def classified(self, network: Headed, variables: Variables) -> dict[str, Any]:
        """The head's own classes."""
        held_out = {split: outputs(network, variables, self.pixels[split])["head"].argmax(axis=1)
                    for split in _SPLITS[1:]}
        test = accuracy(held_out["test"], self.labels.test)
        return {"dimension": None, "accuracy": test.value, "standard_error": test.standard_error,
                "validation_accuracy": accuracy(held_out["validation"], self.labels.validation).value}

    def rotations_told(self, network: Headed, variables: Variables) -> float:
        """The part of the turned validation images whose rotation the network tells; 1/4 by chance."""
        images, answers = rotations(jnp.asarray(self.pixels["validation"]))
        told = outputs(network, variables, np.asarray(images))["head"].argmax(axis=1)
        return accuracy(told, np.asarray(answers)).value

    def reconstructed(self, bigan: BiGan, players: Players, count: int) -> Float[np.ndarray, "n h w c"]:
        """G(E(x)) of the leading validation images, by the generator's last batch statistics."""
        latents = outputs(bigan.encoder, players.encoder.variables, self.pixels["validation"][:count])["head"]
        return np.asarray(bigan.generator.apply(players.generator.variables, jnp.asarray(latents)))

    def _headed(self, outputs: int) -> Headed:
        return Headed(self._adversaries.discriminator, outputs)

    def _key(self, name: str) -> Any:
        return self._material.key(name)

    def _told(self, what: str) -> Progress:
        return lambda done, total, note: self._report(done, total, f"{what}, {note}")


def _percent(found: dict[str, Any]) -> str:
    return f"{100 * found['accuracy']:.1f} ± {100 * found['standard_error']:.1f}"
