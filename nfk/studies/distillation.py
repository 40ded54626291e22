"""`distillation`: a small classifier taught by the embedding of a large one, beside other ways (Table 3).

The teacher is the family's network, the student another classifier that learns from the leading `examples` training
images. Student alone: cross-entropy. NFK: the teacher's embedding, by L2 or by cosine, and `nfk`, the one of the two
that does better on the validation split. KD: its softened classes. FitNet, AT, NST, VID-I: its layers. All students of
one seed start from the same weights and see the same batches and crops. Of each method the weights with the highest
accuracy on the validation split are kept, the first of equals, and read on the test split once. Agreement is the share
of test images whose class the student and the teacher call alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import jax
import numpy as np
from jaxtyping import Int32
from matplotlib.figure import Figure

from nfk.evaluation.accuracy import accuracy
from nfk.evaluation.figures.style import BLUE, GREY, INK, new_figure, styled
from nfk.models.classifier import Classifier, Variables
from nfk.models.families import initial
from nfk.models.protocol import TrainedModel
from nfk.studies.distilling.candidates import TITLES, Candidate, candidates
from nfk.studies.distilling.fisher_kernel import unit_size
from nfk.studies.distilling.lessons import Taught, teach, top_classes
from nfk.studies.distilling.seen import map_shapes, paired
from nfk.studies.study import Findings, Material, Report, Table
from nfk.study_params import NEED_MAPS, DistillationParams
from nfk.training import TrainingError

_BLOCK = 250
_NFK = ("nfk-l2", "nfk-cosine")


def run(material: Material, params: DistillationParams, report: Report) -> Findings:
    teacher, images = material.model, material.images
    _require_classifier(teacher, images.shape, params)
    student = cast(Classifier, initial(params.student, images.shape, len(images.class_names), material.key("student")))
    pairs = paired(map_shapes(student.activations, images.shape), map_shapes(teacher.activations, images.shape))
    taught = Taught(images.pixels("train", params.examples), images.labels("train", params.examples),
                    unit_size(material.embeddings["train"][: params.examples, : params.components]))
    grid = candidates(params)
    learnt = teach(student, teacher, grid, taught, pairs, key=material.key("batches"), head_key=material.key("heads"),
                   progress=report, checkpoint=material.checkpoint)
    tried = _validated(student, grid, learnt, images.pixels("validation"), images.labels("validation"))
    pixels, labels = images.pixels("test"), images.labels("test")
    taught_classes = top_classes(teacher, pixels, _BLOCK)
    methods = {name: _tested(student, learnt, attempts, pixels, labels, taught_classes)
               for name, attempts in tried.items()}
    if rivals := [name for name in _NFK if name in methods]:
        best = max(rivals, key=lambda name: methods[name]["validation"])
        methods["nfk"] = methods[best] | {"distance": best.removeprefix("nfk-")}
    right = accuracy(taught_classes, labels)
    numbers = {
        "examples": params.examples, "components": params.components, "pairs": [list(pair) for pair in pairs],
        "teacher": {"parameters": _size(teacher.params), "accuracy": right.value,
                    "standard_error": right.standard_error},
        "student": {"parameters": _size(student.params)}, "methods": methods}
    return Findings(_summary(numbers), numbers, _table(numbers), {"accuracy": _figure(numbers)})


def _require_classifier(teacher: TrainedModel, shape: tuple[int, int, int], params: DistillationParams) -> None:
    names: dict[str, Any] = {}
    if hasattr(teacher, "activations"):
        names = jax.eval_shape(teacher.activations, jax.ShapeDtypeStruct((2, *shape), np.float32))
    if "logits" not in names:
        raise TrainingError(f"family {params.family} has no layer called logits: distillation wants a classifier; name "
                            "one under the study's family")
    if (unfit := sorted(set(params.methods) & NEED_MAPS)) and not map_shapes(teacher.activations, shape):
        raise TrainingError(f"family {params.family} has no feature maps, which {', '.join(unfit)} compare; leave them "
                            "out of the study's methods")


def _validated(
    student: Classifier, grid: Sequence[Candidate], learnt: Sequence[Variables], pixels: np.ndarray,
    labels: Int32[np.ndarray, " m"],
) -> dict[str, list[dict[str, Any]]]:
    """What each candidate reached on the validation split, by method; `index` says which candidate it is."""
    tried: dict[str, list[dict[str, Any]]] = {}
    for index, (candidate, variables) in enumerate(zip(grid, learnt, strict=True)):
        finite = all(bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(variables))
        reached = replace(student, variables=variables).accuracy(pixels, labels) if finite else 0.0
        tried.setdefault(candidate.method, []).append(
            {"index": index, "settings": candidate.settings, "validation": reached, "diverged": not finite})
    return tried


def _tested(
    student: Classifier, learnt: Sequence[Variables], attempts: list[dict[str, Any]], pixels: np.ndarray,
    labels: Int32[np.ndarray, " m"], taught_classes: Int32[np.ndarray, " m"],
) -> dict[str, Any]:
    """The best attempt on the validation split, on the test split."""
    best = max(attempts, key=lambda attempt: attempt["validation"])
    classes = top_classes(replace(student, variables=learnt[best["index"]]), pixels, _BLOCK)
    reached = accuracy(classes, labels)
    return {"accuracy": reached.value, "standard_error": reached.standard_error,
            "agreement": accuracy(classes, taught_classes).value, "validation": best["validation"],
            "chosen": best["settings"], "diverged": best["diverged"],
            "tried": [{name: attempt[name] for name in ("settings", "validation", "diverged")} for attempt in attempts]}


def _size(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _summary(numbers: Mapping[str, Any]) -> str:
    methods = numbers["methods"]
    shown = [f"{TITLES.get(name, 'NFK')} {methods[name]['accuracy']:.1%}"
             for name in ("student", "nfk", "kd") if name in methods]
    return f"students of {numbers['examples']} images: {', '.join(shown)}; teacher {numbers['teacher']['accuracy']:.1%}"


def _table(numbers: Mapping[str, Any]) -> Table:
    teacher, methods = numbers["teacher"], numbers["methods"]
    rows = [("teacher", _percent(teacher), "–", "–", "–")]
    for name, title in TITLES.items():
        if name in methods:
            result = methods[name]
            shown = ("diverged", "–", "–") if result["diverged"] else (
                _percent(result), f"{100 * result['agreement']:.1f}", f"{100 * result['validation']:.1f}")
            chosen = ", ".join(f"{key} {value:g}" for key, value in result["chosen"].items())
            rows.append((title, *shown, chosen or "–"))
    return Table(("method", "accuracy, %", "agreement with the teacher, %", "validation, %", "chosen there"),
                 tuple(rows))


def _percent(result: Mapping[str, Any]) -> str:
    return f"{100 * result['accuracy']:.1f} ± {100 * result['standard_error']:.1f}"


@styled
def _figure(numbers: Mapping[str, Any]) -> Figure:
    methods, teacher = numbers["methods"], 100 * numbers["teacher"]["accuracy"]
    names = [name for name in TITLES if name in methods and not methods[name]["diverged"]]
    figure = new_figure(6.8, 1.2 + 0.32 * len(names))
    axes = figure.subplots()
    for place, name in enumerate(names):
        result = methods[name]
        axes.errorbar(100 * result["accuracy"], place, xerr=100 * result["standard_error"], fmt="o", capsize=2.5,
                      color=BLUE if name.startswith("nfk") else INK)
    axes.axvline(100 * methods["student"]["accuracy"], color=GREY, linewidth=0.9, linestyle=":")
    axes.axvline(teacher, color=GREY, linewidth=0.9, linestyle="--")
    axes.annotate("teacher", xy=(teacher, 1), xytext=(-3, 3), xycoords=axes.get_xaxis_transform(), ha="right",
                  textcoords="offset points", color=GREY, fontsize=8.5)
    axes.set_yticks(range(len(names)), [TITLES[name] for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("Test accuracy, % (bars: one standard error)")
    axes.set_title(f"Students of {numbers['examples']:,} images")
    axes.grid(axis="y", visible=False)
    return figure
