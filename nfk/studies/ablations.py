"""`ablations`: what each choice in the Fisher vector is worth, one change of it at a time, by the same probes.

The gradients of all images are taken once and kept (4 p bytes an image); a variant changes them (`changed_rows`),
takes the leading k modes of the training rows by their Gram matrix, and embeds the three splits by W^T V_x. Only noise
and a network in bfloat16 want gradients of their own. Where the pipeline's vectors are not the paper's, that default
stands beside "element-wise", the paper's, which the other variants change; noise and bfloat16 alone change the default.
Beside them stand the embedding that the pipeline wrote, the whole Fisher vector, the activations and the pixels'
principal components.

closed: (accuracy - default's) / (rival's - default's), the part of the gap to that rival that the variant closes.
Cost: 7 to 15 s a variant for 3,500 images of 17,000 to 62,000 parameters on 2 cores, half of it the probes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from nfk.evaluation.evaluate import evaluate_all
from nfk.evaluation.features import Features, Labels, from_gram, truncate
from nfk.evaluation.figures.style import BLUE, GREEN, GREY, VERMILLION, new_figure, styled
from nfk.fisher.embedding import scale
from nfk.fisher.kernel import kernel_matrices
from nfk.fisher.kronecker import live
from nfk.fisher.parameters import parameter_index
from nfk.fisher.scores import LogDensity, Scores
from nfk.fisher.statistics import FisherStatistics, block_moments, fisher_statistics
from nfk.fisher.vectors import FisherVectors
from nfk.fisher.whitening import unit_rows
from nfk.linalg import spread
from nfk.linalg.eigen import leading_eigenpairs
from nfk.linalg.gram import gram_matrix
from nfk.linalg.krylov import block_krylov
from nfk.linalg.rows import DenseRows, RowBlocks, StoredRows, adjoint_pass, image_pass
from nfk.models.protocol import NoisyPotential
from nfk.params import PAPER_VECTORS
from nfk.studies import changed_rows as change
from nfk.studies.changed_rows import ChangedRows, one_after_another
from nfk.studies.noise import own_noise, shared_noise
from nfk.studies.study import Findings, Material, Report, Table
from nfk.study_params import AblationsParams

SPLITS = ("train", "validation", "test")
DEFAULT, FULL, ACTIVATIONS = "default", "whole Fisher vector", "activations"
_RIVALS = {FULL: "full", ACTIVATIONS: "activations"}
_BLOCK, _TOLERANCE, _SMALL = 512, 1e-6, 1000


class Variant(NamedTuple):
    name: str
    """without a dot: experiments name numbers by dotted paths"""
    group: str
    rows: Callable[[], list[RowBlocks]]
    """the vectors of each split"""


class Kept(NamedTuple):
    """Embeddings of the three splits, and the part of |V|^2 that they hold."""

    features: Features
    explained: float


def run(material: Material, params: AblationsParams, report: Report) -> Findings:
    labels = Labels(material.images.labels("train", material.labelled), material.images.labels("validation"),
                    material.images.labels("test"))
    rank, gradients = material.modes.right.shape[1], Gradients(material, params, report)
    found: dict[str, Kept] = {}
    groups: dict[str, str] = {}
    left_out: dict[str, str] = {}
    planned = _wanted(list(variants(material, params, gradients)), params.only)
    for done, variant in enumerate(planned):
        report(done, len(planned), f"variants, {variant.name}")
        groups[variant.name] = variant.group
        try:
            found[variant.name] = _kept(material, variant, rank)
        except TypeError as error:  # a network whose constants are of one precision
            left_out[variant.name] = " ".join(str(error).split())[:200]
    report(len(planned), len(planned), "variants")
    for kept in _of_the_default(material, params, gradients, labels):
        found[kept.features.name], groups[kept.features.name] = kept, "scaling and rank"
    rivals = _rivals(material, gradients, rank)
    probed = evaluate_all([*(kept.features for kept in found.values()), *rivals], labels, material.evaluate,
                          material.seed, progress=report)
    numbers: dict[str, Any] = {
        "rank": rank, "parameters": material.scores.size, "left_out": left_out,
        "variants": {name: {"group": groups[name], "explained_variance": kept.explained, **_record(probed[name]),
                            **_against(probed, name)} for name, kept in found.items()},
        "rivals": {features.name: _record(probed[features.name]) for features in rivals},
    }
    best = max(found, key=lambda name: probed[name]["logistic"]["validation_accuracy"])
    numbers["best_on_validation"] = {"name": best, **numbers["variants"][best]}
    return Findings(_summary(numbers), numbers, _table(numbers), {"variants": _figure(numbers)})


def _wanted(all_of_them: list[Variant], only: Sequence[str] | None) -> list[Variant]:
    """The default and those asked for, in their order."""
    names = [variant.name for variant in all_of_them]
    if unknown := sorted(set(only or ()) - set(names)):
        raise ValueError(f"only={unknown[0]!r} is no variant of this network; there are {'; '.join(names)}")
    return [each for each in all_of_them if only is None or each.name in (DEFAULT, *only)]


class Gradients:
    """Raw gradients of each split and of the model's samples, taken when first asked for and kept."""

    def __init__(self, material: Material, params: AblationsParams, report: Report) -> None:
        self._material, self._params, self._report = material, params, report
        images = material.images
        self.examples = [images.examples(split, material.labelled if split == "train" else None) for split in SPLITS]
        drawn = material.model.sample(material.key("samples"), max(params.samples))
        self.own_samples = drawn is not None
        """whether the model draws any; else training images stand for them, as in `statistics`"""
        self.samples = images.examples("train", max(params.samples)) if drawn is None else np.asarray(drawn)
        count = sum(each.shape[0] for each in (*self.examples, self.samples)) + self.examples[0].shape[0]
        needed = 4 * count * material.scores.size / 2**30
        if needed > params.memory_gib:
            raise ValueError(f"gradients of {count:,} images of {material.scores.size:,} numbers need {needed:.1f} "
                             f"GiB, above memory_gib={params.memory_gib:g} of this study; raise it, or lower "
                             "evaluate.examples")

    @cached_property
    def splits(self) -> list[DenseRows]:
        return [DenseRows(self._taken(examples, split), _BLOCK)
                for split, examples in zip(SPLITS, self.examples, strict=True)]

    @cached_property
    def of_samples(self) -> Float[np.ndarray, "m p"]:
        return self._taken(self.samples, "the model's samples")

    @cached_property
    def of_train(self) -> Float[np.ndarray, "n p"]:
        return np.concatenate([np.asarray(self.splits[0].block(index)) for index in
                               range(-(-self.splits[0].shape[0] // _BLOCK))])

    def changed(self, *changes: change.Change) -> Callable[[], list[RowBlocks]]:
        return lambda: [ChangedRows(rows, one_after_another(*changes)) for rows in self.splits]

    def otherwise(self, log_density: LogDensity, params: Any, statistics: FisherStatistics | None
                  ) -> Callable[[], list[RowBlocks]]:
        """Vectors of another potential, or of other weights; statistics None: over the samples, of that potential."""
        def rows() -> list[RowBlocks]:
            scores, block = Scores(log_density, params), self._material.block
            known = statistics or fisher_statistics(
                scores, self.samples, kronecker=self._material.statistics.sides is not None, block=block,
                progress=self._report)
            return [ChangedRows(FisherVectors(scores, examples, known, damping=self._material.damping,
                                              unit_rows=self._material.unit_rows, block_rows=block),
                                lambda each: each.astype(jnp.float32)) for examples in self.examples]

        return rows

    def _taken(self, examples: Any, what: str) -> Float[np.ndarray, "m p"]:
        count, block = examples.shape[0], self._material.block
        rows = np.empty((count, self._material.scores.size), np.float32)
        for start in range(0, count, block):
            stop = min(count, start + block)
            rows[start:stop] = self._material.scores(examples[start:stop], start)
            self._report(stop, count, f"gradients, {what}")
        return rows


def variants(material: Material, params: AblationsParams, gradients: Gradients) -> Iterator[Variant]:
    """Each variant of the vectors, the default first."""
    known, index = material.statistics, parameter_index(material.scores.params)
    otherwise = known.sides is not None or material.unit_rows
    damping = PAPER_VECTORS["svd"]["damping"] if otherwise else material.damping
    mean, weight, ones = known.mean_score, known.weight(damping), (known.diagonal > 0).astype(np.float64)
    fisher, centred = change.centred_and_weighted(mean, weight), change.centred_and_weighted(mean, ones)

    def variant(name: str, group: str, *changes: change.Change) -> Variant:
        return Variant(name, group, gradients.changed(*changes))

    yield variant(DEFAULT, "as the pipeline has it", material.whitening)
    if otherwise:
        yield variant("element-wise", "as the paper has it", fisher)
    group = "centring and whitening"
    yield variant("mean not subtracted", group, change.centred_and_weighted(np.zeros_like(mean), weight))
    yield variant("not whitened", group, centred)
    yield variant("neither", group, change.centred_and_weighted(np.zeros_like(mean), ones))
    for other in params.dampings:
        yield variant(f"damping {other:.0e}", "damping", change.centred_and_weighted(mean, known.weight(other)))
    for count in sorted(params.samples) if gradients.own_samples else ():
        yield variant(f"{count} model samples", "statistics", _from_statistics(gradients.of_samples[:count], damping))
    yield variant("training images", "statistics", _from_statistics(gradients.of_train, damping))
    group, root = "rows", change.signed_square_root
    yield variant("row-normalised", group, fisher, unit_rows)
    yield variant("not whitened, row-normalised", group, centred, unit_rows)
    yield variant("signed square root", group, fisher, root)
    yield variant("signed square root, row-normalised", group, fisher, root, unit_rows)
    yield variant("not whitened, signed square root, row-normalised", group, centred, root, unit_rows)
    group, layers = "layers", change.centred_and_weighted(mean, change.layer_weights(known, index))
    yield variant("one weight a layer", group, layers)
    yield variant("one weight a layer, row-normalised", group, layers, unit_rows)
    yield variant("each layer row-normalised", group, centred, change.unit_layers(index))
    centred_live = change.centred_and_weighted(mean, live(known.diagonal, index))
    kronecker = _kronecker(gradients, centred_live, index)
    for other in params.kronecker_dampings:
        yield variant(f"Kronecker-factored {other:.0e}", group, centred_live, kronecker(other))
        yield variant(f"Kronecker-factored {other:.0e}, row-normalised", group, centred_live, kronecker(other),
                      unit_rows)
    yield variant("vectors in bf16", "precision", fisher, change.in_bfloat16)
    scores = material.scores
    halved = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), scores.params)
    yield Variant("network in bf16", "precision", gradients.otherwise(scores.log_density, halved, known))
    if isinstance(material.model, NoisyPotential) and material.scores.size == _size(material.model.params):
        yield from _noises(material.model, params.noises, scores.params, gradients)


def _noises(
    model: NoisyPotential, draws: Sequence[int], theta: Any, gradients: Gradients
) -> Iterator[Variant]:
    """Statistics and vectors of the potential without noise, with shared noises, and with each image's own."""
    yield Variant("noise none", "noise in the potential", gradients.otherwise(shared_noise(model, 0), theta, None))
    for count in draws:
        for name, made in (("shared", shared_noise), ("of each image", own_noise)):
            yield Variant(f"noise {name}, {count}", "noise in the potential",
                          gradients.otherwise(made(model, count), theta, None))


def _from_statistics(rows: Float[np.ndarray, "m p"], damping: float) -> change.Change:
    moments = block_moments(rows)
    return change.centred_and_weighted(
        moments.mean, FisherStatistics(moments.mean, moments.deviations / moments.count, moments.count).weight(damping))


def _kronecker(
    gradients: Gradients, centred_live: change.Change, index: Sequence[Any]
) -> Callable[[float], change.Change]:
    """The change by its damping, made when its first block is asked for: it wants the samples' gradients."""
    @cache
    def damped(damping: float) -> change.Change:
        made: list[change.Change] = []

        def apply(rows: Any) -> Any:
            if not made:
                centred = ChangedRows(DenseRows(gradients.of_samples, _BLOCK), centred_live)
                made.append(change.kronecker_whitening(centred, index, damping))
            return made[0](rows)

        return apply

    return damped


def _kept(material: Material, variant: Variant, rank: int) -> Kept:
    """The variant's embeddings, from the checkpoint where they are there already."""
    name = f"variant {variant.name}"
    if (arrays := material.checkpoint.load(name)) is None:
        embedded = embed(variant.rows(), rank)
        arrays = {**dict(zip(SPLITS, embedded.splits, strict=True)), "explained": np.array([embedded.explained])}
        material.checkpoint.save(name, arrays)
    return Kept(Features(variant.name, *(arrays[split] for split in SPLITS)), float(arrays["explained"][0]))


class Embedded(NamedTuple):
    splits: list[Float[np.ndarray, "_ k"]]
    explained: float
    singular_values: Float[np.ndarray, " k"]


def embed(rows: list[RowBlocks], rank: int) -> Embedded:
    """W^T V_x of each split, W the leading right singular vectors of the first one's n rows. Holds those rows.

    By the eigenvectors of their Gram matrix K, in float32: exact for up to 1,000 rows, else by block Krylov iteration
    of K, a few products of n x n with n x rank, where LAPACK takes ten times as long; good to 1e-3 of the weakest mode
    that is kept.
    """
    train = StoredRows(rows[0])
    gram, _ = gram_matrix(train, double=False)
    rank = min(rank, *train.shape)
    if len(gram) <= _SMALL:
        squares, left = leading_eigenpairs(gram, rank)
    else:
        modes = block_krylov(DenseRows(gram.astype(np.float32), len(gram)), rank=rank, key=jax.random.key(0), passes=5,
                             tolerance=_TOLERANCE)
        squares, left = modes.singular_values, modes.left
    values = np.sqrt(np.maximum(squares, np.finfo(np.float32).eps * squares[0]))
    image = spread.whole(adjoint_pass(train, left.astype(np.float32)), train.shape[1])
    right = jnp.asarray(image / values.astype(np.float32)[None, :])
    splits = [image_pass(each, right) for each in (train, *rows[1:])]
    return Embedded(splits, float(np.sum(values**2) / np.trace(gram)), values)


def _of_the_default(
    material: Material, params: AblationsParams, gradients: Gradients, labels: Labels
) -> Iterator[Kept]:
    """The default's embedding at other ranks, and scaled otherwise."""
    rank, rows = material.modes.right.shape[1], gradients.changed(material.whitening)
    most = min(max(*params.ranks, rank), len(labels.train), material.scores.size)
    whole = embed(rows(), most)
    features = Features("whole", *whole.splits)
    shares = np.cumsum(whole.singular_values**2) * whole.explained / np.sum(whole.singular_values**2)
    for other in sorted({min(other, most) for other in params.ranks} - {rank}):
        yield Kept(truncate(features, other, name=f"rank {other}"), float(shares[other - 1]))
    for scaling in ("whitened", "unit"):
        yield Kept(Features(f"embedding {scaling}", *(
            scale(split[:, :rank], scaling, singular_values=whole.singular_values[:rank], fitted=len(labels.train))
            for split in whole.splits)), float(shares[rank - 1]))


def _rivals(material: Material, gradients: Gradients, rank: int) -> list[Features]:
    """The embedding as the pipeline wrote it, the whole Fisher vector, the activations, principal components."""
    compared = {features.name: features for features in material.representations()}
    wanted = {f"nfk-{rank}": "embed stage", "activations-all": ACTIVATIONS, "pixels": "pixels",
              **{name: name for name in compared if name.startswith(("activations-all-pca-", f"pca-{rank}"))}}
    rivals = [Features(called, compared[name].train, compared[name].validation, compared[name].test)
              for name, called in wanted.items() if name in compared]
    fisher = gradients.changed(material.whitening)
    return [from_gram(FULL, *kernel_matrices(*fisher())), *rivals]


def _record(probed: dict[str, Any]) -> dict[str, Any]:
    return {"dimension": probed["dimension"], "accuracy": probed["logistic"]["accuracy"],
            "standard_error": probed["logistic"]["standard_error"],
            "validation_accuracy": probed["logistic"]["validation_accuracy"],
            "strength": probed["logistic"]["strength"], "knn": probed["knn"]["accuracy"],
            "few_labels": {count: few["mean"] for count, few in probed["few_labels"].items()},
            "draws": {count: few["draws"] for count, few in probed["few_labels"].items()}}


def _against(probed: dict[str, Any], name: str) -> dict[str, Any]:
    """What the variant gains on the default, and how much of each rival's gap that closes (None: there is none)."""
    own, default = probed[name]["logistic"], probed[DEFAULT]["logistic"]
    gain = own["accuracy"] - default["accuracy"]
    closed = {}
    for rival, key in _RIVALS.items():
        gap = probed[rival]["logistic"]["accuracy"] - default["accuracy"] if rival in probed else 0.0
        closed[key] = gain / gap if gap > 0 else None
    return {"gain": gain, "gain_error": math.hypot(own["standard_error"], default["standard_error"]), "closed": closed}


def _size(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _summary(numbers: dict[str, Any]) -> str:
    best, default = numbers["best_on_validation"], numbers["variants"][DEFAULT]
    full = numbers["rivals"][FULL]["accuracy"]
    return (f"best on validation of {len(numbers['variants'])} variants: {best['name']}, {best['accuracy']:.1%} on "
            f"test; default {default['accuracy']:.1%}, whole Fisher vector {full:.1%}")


def _table(numbers: dict[str, Any]) -> Table:
    counts = list(numbers["variants"][DEFAULT]["few_labels"])

    def row(name: str, group: str, record: dict[str, Any]) -> tuple[str, ...]:
        closed, gain = record.get("closed", {}), record.get("gain")
        return (group, name, str(record["dimension"]),
                f"{100 * record['accuracy']:.1f} ± {100 * record['standard_error']:.1f}",
                "" if gain is None else f"{100 * gain:+.1f}",
                *(f"{100 * record['few_labels'][count]:.1f}" for count in counts), f"{100 * record['knn']:.1f}",
                *("" if closed.get(key) is None else f"{100 * closed[key]:.0f}" for key in _RIVALS.values()))

    rows = [row(name, record["group"], record) for name, record in numbers["variants"].items()]
    rows += [row(name, "rivals", record) for name, record in numbers["rivals"].items()]
    return Table(("change", "variant", "numbers", "accuracy, %", "gain", *(f"{count} labels, %" for count in counts),
                  "k-NN, %", "closed to whole vector, %", "closed to activations, %"), tuple(rows))


@styled
def _figure(numbers: dict[str, Any]) -> Figure:
    """Accuracy with all labels, and with the fewest; lines mark the default and what it rivals."""
    counts = list(numbers["variants"][DEFAULT]["few_labels"])
    rows = numbers["variants"]
    panels: list[tuple[str, Callable[[dict[str, Any]], float]]] = [("All labels", lambda one: one["accuracy"])]
    if counts:
        panels.append((f"{counts[0]} labels", lambda one: one["few_labels"][counts[0]]))
    figure = new_figure(3.2 + 2.6 * len(panels), 1.2 + 0.2 * len(rows))
    cells = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, read) in zip(cells, panels, strict=True):
        for place, (name, one) in enumerate(rows.items()):
            error = 100 * one["standard_error"] if title == "All labels" else None
            axes.errorbar(100 * read(one), place, xerr=error, marker="o", markersize=4,
                          color=VERMILLION if name == DEFAULT else BLUE, elinewidth=0.8, capsize=0)
        axes.axvline(100 * read(rows[DEFAULT]), color=VERMILLION, linewidth=0.9, label="default")
        for rival, colour, line in ((FULL, GREEN, "--"), (ACTIVATIONS, GREY, ":")):
            if rival in numbers["rivals"]:
                axes.axvline(100 * read(numbers["rivals"][rival]), color=colour, linewidth=1.1, linestyle=line,
                             label=rival)
        axes.set_title(title)
        axes.set_xlabel("Test accuracy, %")
    cells[0].set_yticks(range(len(rows)), list(rows))
    cells[0].set_ylim(len(rows) - 0.4, -0.6)
    figure.legend(*cells[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8.5)
    return figure
