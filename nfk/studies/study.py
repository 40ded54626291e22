"""What a study is given, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Array, Float, Float32, Int32, Key, UInt8
from matplotlib.figure import Figure

from nfk.checkpoint import Checkpoint
from nfk.evaluation.features import Features
from nfk.fisher.scores import Scores
from nfk.fisher.statistics import FisherStatistics
from nfk.fisher.vectors import FisherVectors
from nfk.fisher.whitening import Whitening
from nfk.linalg.tall import Tall
from nfk.models.protocol import TrainedModel
from nfk.params import EvaluateParams

Report = Callable[[int, int, str], None]
"""(done, in all, of what)"""


class ImageSplits(Protocol):
    """The data set by split ("train", "validation", "test"), the leading `most` images of each."""

    @property
    def shape(self) -> tuple[int, int, int]: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    def pixels(self, split: str, most: int | None = None) -> UInt8[np.ndarray, "m h w c"]: ...

    def labels(self, split: str, most: int | None = None) -> Int32[np.ndarray, " m"]: ...

    def examples(self, split: str, most: int | None = None) -> Any:
        """float32 in [0, 1], read when sliced"""
        ...


class KeptModes(NamedTuple):
    """What `svd` wrote."""

    singular_values: Float[np.ndarray, " k"]
    left: Float[np.ndarray, "n k"]
    right: Tall
    """(p, k), read by rows"""


class Material(NamedTuple):
    """All that is known of one network."""

    images: ImageSplits
    model: TrainedModel
    scores: Scores
    statistics: FisherStatistics
    damping: float
    unit_rows: bool
    memory_bytes: int
    """for the right factor and the rows it meets"""
    modes: KeptModes
    embeddings: dict[str, Float32[np.ndarray, "_ k"]]
    """by split; of the training split as many rows as were embedded"""
    labelled: int
    """leading training images whose labels may be used"""
    block: int
    """examples scored at once"""
    evaluate: EvaluateParams
    """how representations are probed"""
    seed: int
    representations: Callable[[], list[Features]]
    """makes the embedding at each of evaluate.ranks, the pixels and their principal components, and the network's
    activations"""
    checkpoint: Checkpoint
    """scratch of this study alone"""

    @property
    def whitening(self) -> Whitening:
        """What makes Fisher vectors of gradients there, in float32."""
        return self.statistics.whitening(self.scores.index, damping=self.damping, unit_rows=self.unit_rows
                                         ).in_precision(np.float32)

    def vectors(self, examples: Any) -> FisherVectors:
        """Fisher vectors as the pipeline's `svd` stage made them."""
        return FisherVectors(self.scores, examples, self.statistics, damping=self.damping, unit_rows=self.unit_rows,
                             block_rows=self.block)

    def key(self, purpose: str) -> Key[Array, ""]:
        """A key of its own for each purpose (its first eight letters count), all from the seed."""
        number = int.from_bytes(purpose.encode()[:8].ljust(8), "big")
        key = jax.random.fold_in(jax.random.key(self.seed), number >> 32)
        return jax.random.fold_in(key, number & 0xFFFFFFFF)


class Table(NamedTuple):
    """What people read of it."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Findings(NamedTuple):
    """The answer."""

    summary: str
    """one line"""
    numbers: dict[str, Any]
    """ready for JSON: every number, with what was chosen on the validation split; an experiment's rows name them"""
    table: Table
    figures: dict[str, Figure]
    """by file name without suffix"""
