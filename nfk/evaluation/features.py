"""Representations of the three splits, and the exact changes of coordinates a linear probe does not notice.

An L2-regularised linear classifier with a free intercept depends on its features only through their
centred inner products. So they may be shifted, rotated, or replaced by any isometric copy; one scale for
all coordinates only renames the strength. A scale per coordinate would not do: it changes the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Integer
from sklearn.decomposition import PCA

from nfk.linalg.blas import threads_for, threads_for_eigenproblem

POOLED_SIZE = 4
"""Activations are averaged to at most this many cells a side."""


@dataclass(frozen=True)
class Features:
    """One representation: a row for every image of each split. Finite, and of one width."""

    name: str
    train: Float[np.ndarray, "n d"]
    validation: Float[np.ndarray, "v d"]
    test: Float[np.ndarray, "t d"]

    def __post_init__(self) -> None:
        for split in ("train", "validation", "test"):
            rows = getattr(self, split)
            if rows.shape[1:] != self.train.shape[1:]:
                raise ValueError(f"{self.name}: {split} rows have {rows.shape[1:]} numbers, train rows "
                                 f"{self.train.shape[1:]}; compute every split with the same model")
            finite = np.isfinite(rows).all(axis=1)
            if not finite.all():
                raise ValueError(f"{self.name}: {split} row {int(np.argmin(finite))} is not finite; "
                                 f"{int((~finite).sum())} of {len(rows)} such rows")

    @property
    def dimension(self) -> int:
        return self.train.shape[1]


@dataclass(frozen=True)
class Labels:
    """The class index of every image of each split."""

    train: Integer[np.ndarray, " n"]
    validation: Integer[np.ndarray, " v"]
    test: Integer[np.ndarray, " t"]


def standardise(features: Features) -> Features:
    """x -> (x - mean_train) / sqrt(mean_train |x - mean_train|^2), in float64.

    One scale for all coordinates, taken from the rows' lengths: it does not change under rotation, nor
    when the rows are written in a space of another dimension (as `from_gram` does), so one strength means
    the same for 16 numbers and for the whole Fisher vector.
    """
    train = features.train.astype(np.float64)
    mean = train.mean(axis=0)
    train -= mean
    scale = np.sqrt(np.einsum("nd,nd->", train, train) / len(train))
    if not scale > 0:
        raise ValueError(f"{features.name}: all {len(train)} training rows are equal; nothing to probe")
    return replace(features, train=train / scale, validation=(features.validation - mean) / scale,
                   test=(features.test - mean) / scale)


def pool(activation: Float[np.ndarray, "n h w c"], size: int = POOLED_SIZE) -> Float[np.ndarray, "n d"]:
    """Average pooling of each channel to at most size x size cells, flattened.

    Cell i of a side of h pixels averages the pixels floor(i h / size) to ceil((i + 1) h / size) - 1; a side
    of `size` pixels or fewer is kept as it is.
    """
    if size < 1:
        raise ValueError(f"size={size}: pooling needs at least 1 cell a side")
    _, height, width, _ = activation.shape
    rows, columns = _cells(height, size), _cells(width, size)
    cells = [activation[:, top:bottom, left:right].mean(axis=(1, 2))
             for top, bottom in rows for left, right in columns]
    return np.concatenate(cells, axis=1)


def concatenate(parts: list[Features], *, name: str) -> Features:
    """Several representations side by side, each in its own scale.

    Raises:
        ValueError: no parts, or parts of other images (another number of rows).
    """
    if not parts:
        raise ValueError(f"{name}: nothing to concatenate; give at least one representation")
    counts = {part.name: (len(part.train), len(part.validation), len(part.test)) for part in parts}
    if len(set(counts.values())) > 1:
        raise ValueError(f"{name}: the parts have other numbers of rows: {counts}")
    return Features(name, np.concatenate([part.train for part in parts], axis=1),
                    np.concatenate([part.validation for part in parts], axis=1),
                    np.concatenate([part.test for part in parts], axis=1))


def pca(features: Features, dimension: int, *, name: str, seed: int = 0) -> Features:
    """The leading principal components of the training rows.

    scikit-learn's PCA: exact where the rows are narrow, randomised (from `seed`) where they are wide and
    few components are asked. Components come in decreasing order: `truncate` gives the smaller ones.
    """
    most = min(features.train.shape)
    if not 1 <= dimension <= most:
        raise ValueError(f"{name}: {dimension} principal components of {len(features.train)} rows of "
                         f"{features.dimension} numbers; at most min(n, d)={most}")
    # products, then an eigenproblem, which costs more on several threads than products twenty times as large gain
    with threads_for(2 * features.train.size * min(features.train.shape) / 20):
        model = PCA(n_components=dimension, random_state=seed).fit(features.train)
    return Features(name, model.transform(features.train), model.transform(features.validation),
                    model.transform(features.test))


def truncate(features: Features, dimension: int, *, name: str) -> Features:
    """The leading coordinates: for components in decreasing order, the representation of smaller rank."""
    if not 1 <= dimension <= features.dimension:
        raise ValueError(f"{name}: {dimension} leading coordinates of {features.name}, which has "
                         f"{features.dimension}")
    return Features(name, features.train[:, :dimension], features.validation[:, :dimension],
                    features.test[:, :dimension])


def from_gram(name: str, gram: Float[np.ndarray, "n n"], validation: Float[np.ndarray, "v n"],
              test: Float[np.ndarray, "t n"]) -> Features:
    """An isometric copy, in at most n numbers, of rows known only by their inner products.

    With V = U S W^T the training rows in R^p, gram = V V^T = U S^2 U^T. Training rows become V W = U S; a
    new row v becomes v W = (v V^T) U S^-1, which needs only its inner products with the training rows.

    A probe on the copy *is* a probe on V. By the representer theorem the penalised optimum lies in the
    span of the training rows, w = W b: then |w| = |b|, and v . w = (v W) . b for every v, so both problems
    have one objective, one optimum and one prediction. Nearest neighbours agree too: the part of a new row
    outside that span adds one constant to all of its distances.

    Directions whose eigenvalue is within the round-off of `gram` (its dtype's eps relative to the largest,
    n eps in float64, or the size of the most negative one) are cut, since S^-1 would amplify it.
    Cost: one n x n eigendecomposition in float64.

    Raises:
        ValueError: a matrix that is zero, not symmetric, or has eigenvalues below -1e-3 of the largest.
    """
    largest_entry = np.abs(gram).max()
    asymmetry = np.abs(gram - gram.T).max()
    if asymmetry > 1e-3 * largest_entry:
        raise ValueError(f"{name}: not a Gram matrix: entries differ from their transposes by up to "
                         f"{asymmetry:.3g}, the largest entry is {largest_entry:.3g}")
    with threads_for_eigenproblem(len(gram)):
        eigenvalues, vectors = np.linalg.eigh((gram + gram.T).astype(np.float64) / 2)
    eigenvalues, vectors = eigenvalues[::-1], vectors[:, ::-1]
    largest, smallest = eigenvalues[0], eigenvalues[-1]
    if not largest > 0 or smallest < -1e-3 * largest:
        raise ValueError(f"{name}: not a Gram matrix: its eigenvalues run from {smallest:.3g} to "
                         f"{largest:.3g}; they must not be negative beyond round-off, nor all zero")
    round_off = max(np.finfo(gram.dtype).eps, len(gram) * np.finfo(np.float64).eps) * largest
    kept = eigenvalues > max(round_off, -smallest)
    vectors, singular = vectors[:, kept], np.sqrt(eigenvalues[kept])
    projection = vectors / singular
    return Features(name, vectors * singular, validation @ projection, test @ projection)


def _cells(length: int, size: int) -> list[tuple[int, int]]:
    count = min(size, length)
    return [(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]
