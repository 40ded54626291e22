"""The representations that `evaluate` compares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from nfk import store
from nfk.evaluation.activations import hidden_layers
from nfk.evaluation.features import Features, concatenate, from_gram, pca, standardise, truncate
from nfk.fisher.kernel import kernel_matrices
from nfk.fisher.statistics import FisherStatistics
from nfk.fisher.vectors import FisherVectors
from nfk.linalg.rows import Progress
from nfk.params import Params
from nfk.stages.images import SPLITS, Images, unit
from nfk.stages.network import Network

BOTH = "fisher-and-activations"


def embeddings(params: Params, stored: store.Store) -> Iterator[Features]:
    """The NFK embedding cut to each of evaluate.ranks that svd.rank reaches."""
    most = params.labelled
    whole = Features("nfk", stored["train"][:most], stored["validation"][:], stored["test"][:])
    for rank in reachable(params.evaluate.ranks, whole.dimension):
        yield truncate(whole, rank, name=f"nfk-{rank}")


def pixels(params: Params, images: Images) -> Iterator[Features]:
    """The raw pixels, and their principal components at the same numbers as the embedding."""
    most = params.labelled
    raw = Features("pixels", *(unit(images.pixels(split, most if split == "train" else None))
                               .reshape(-1, int(np.prod(images.shape))) for split in SPLITS))
    ranks = reachable(params.evaluate.ranks, min(raw.train.shape))
    components = pca(raw, ranks[-1], name="pca", seed=params.seed)
    for rank in ranks:
        yield truncate(components, rank, name=f"pca-{rank}")
    yield raw


def activations(params: Params, network: Network, images: Images, rank: int) -> Iterator[Features]:
    """Every hidden layer, pooled; all of them side by side; and those reduced to `rank` numbers, the embedding's."""
    batch = jax.jit(network.model.activations)
    layers: dict[str, list[np.ndarray]] = {}
    for split in SPLITS:
        examples = images.examples(split, params.labelled if split == "train" else None)
        for name, rows in hidden_layers(batch, examples).items():
            layers.setdefault(name, []).append(rows)
    each = [Features(f"activations-{name}", *splits) for name, splits in layers.items()]
    if not each:
        return
    yield from each
    together = concatenate(each, name="activations-all")
    yield together
    rank = min(rank, *together.train.shape)
    yield pca(together, rank, name=f"activations-all-pca-{rank}", seed=params.seed)


def full_fisher_vector(
    params: Params, network: Network, images: Images, statistics: FisherStatistics, choices: Mapping[str, Any],
    progress: Progress
) -> tuple[Features | None, str]:
    """The whole Fisher vector through its kernel matrix, or None and the reason it is left out."""
    most = params.labelled
    scores = network.scores
    sets = [images.examples(split, most if split == "train" else None) for split in SPLITS]
    needed = 4 * sets[0].shape[0] * scores.size / 2**30
    if needed > params.evaluate.full_vector_gib:
        return None, (f"{sets[0].shape[0]:,} Fisher vectors of {scores.size:,} numbers need {needed:.1f} GiB, "
                      f"above evaluate.full_vector_gib={params.evaluate.full_vector_gib:g}")
    whitening = statistics.whitening(scores.index, **choices)
    rows = [FisherVectors(scores, examples, statistics, whitening=whitening, block_rows=params.statistics.block)
            for examples in sets]
    return from_gram("full-fisher-vector", *kernel_matrices(*rows, progress=progress)), ""


def beside(full: Features, layers: list[Features]) -> Features:
    """All activations and the full Fisher vector, each shifted and scaled to mean square 1 on the training images."""
    together = next(each for each in layers if each.name == "activations-all")
    return concatenate([standardise(together), standardise(full)], name=BOTH)


def reachable(ranks: tuple[int, ...], most: int) -> list[int]:
    """The ranks up to `most`, ascending; `most` itself when all are above it."""
    return sorted({rank for rank in ranks if rank <= most}) or [most]
