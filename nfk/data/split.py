"""Which images are for training, for choosing and for the final measure: fixed by the seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, Integer

from nfk.data.image_set import DataError, ImageSet
from nfk.data.source import Source


@dataclass(frozen=True)
class Splits:
    """Rows of an ImageSet, disjoint, each split in the order to be used in."""

    train: Int64[np.ndarray, " train"]
    validation: Int64[np.ndarray, " validation"]
    test: Int64[np.ndarray, " test"]


def split(image_set: ImageSet | Source, *, train: int, validation: int, test: int, seed: int) -> Splits:
    """Draw the three splits, stratified by class.

    Where the source has a test part, `test` comes from it and the others from the rest; otherwise all come
    from the whole. Rows are dealt by cutting in two: those asked for from the rest of their pool, then one
    split after another from those. At each cut every class gives its proportional share, rounded up or down
    (largest remainders up). So equally large classes have counts in a split that differ by at most one.

    The order in a split spreads each class evenly over it, at random otherwise: the first m rows of a split
    of N, N_k of them of class k, hold m N_k / N of that class to within 1 + K N_k / N, K the number of
    classes (for equally large classes: 2). So leading rows are a fair sample.

    The same labels, sizes and seed give the same splits under any version of numpy: only raw bits of PCG64
    are drawn, whose stream numpy keeps. Cost: a few sorts of the n labels.

    Raises DataError where more is asked for than there is.
    """
    count, boundary = len(image_set), image_set.test_from
    for key, size in (("train", train), ("validation", validation), ("test", test)):
        if size < 1:
            raise DataError(f"data.{key}={size} must be at least 1; raise it in params.yaml")
    bits = np.random.PCG64(seed)
    if boundary is None:
        _enough({"train": train, "validation": validation, "test": test}, count, "images of", image_set)
        test_rows, validation_rows, train_rows = _deal(image_set.labels, (test, validation, train), bits)
    else:
        _enough({"train": train, "validation": validation}, boundary, "images in the train part of",
                image_set)
        _enough({"test": test}, count - boundary, "images in the test part of", image_set)
        test_rows, = _deal(image_set.labels[boundary:], (test,), bits)
        test_rows += boundary
        validation_rows, train_rows = _deal(image_set.labels[:boundary], (validation, train), bits)
    return Splits(train=train_rows, validation=validation_rows, test=test_rows)


def _enough(asked: dict[str, int], available: int, of: str, image_set: ImageSet | Source) -> None:
    total = sum(asked.values())
    if total > available:
        terms = " + ".join(f"data.{key}={size}" for key, size in asked.items())
        found = f"{terms} = {total}" if len(asked) > 1 else terms
        raise DataError(f"{found} exceeds the {available} {of} {image_set.source}; ask for fewer in "
                        "params.yaml")


def _deal(labels: Integer[np.ndarray, " n"], sizes: Sequence[int],
          bits: np.random.PCG64) -> list[Int64[np.ndarray, " _"]]:
    """Disjoint rows for each of `sizes`, in the order to be used in."""
    rank = _rank_in_class(labels, bits)
    left = _share(np.bincount(labels), sum(sizes), bits)
    start = np.zeros_like(left)
    dealt = []
    for size in sizes:
        taken = _share(left, size, bits)
        rows = np.flatnonzero((rank >= start[labels]) & (rank < (start + taken)[labels]))
        dealt.append(rows[_spread(labels[rows], bits)])
        start, left = start + taken, left - taken
    return dealt


def _share(counts: Int64[np.ndarray, " k"], size: int, bits: np.random.PCG64) -> Int64[np.ndarray, " k"]:
    """`size` divided in proportion to `counts` by largest remainder; equal remainders are drawn by lot."""
    whole, remainder = np.divmod(counts * size, counts.sum())
    lots = bits.random_raw(len(counts))
    rounded_up = np.lexsort((lots, -remainder))[:size - whole.sum()]
    whole[rounded_up] += 1
    return whole


def _rank_in_class(labels: Integer[np.ndarray, " n"], bits: np.random.PCG64) -> Int64[np.ndarray, " n"]:
    """Each row's place, from 0, in a random order of its class."""
    by_class = np.lexsort((bits.random_raw(len(labels)), labels))
    counts = np.bincount(labels)
    first = np.cumsum(counts) - counts
    rank = np.empty(len(labels), np.int64)
    rank[by_class] = np.arange(len(labels)) - first[labels[by_class]]
    return rank


def _spread(labels: Integer[np.ndarray, " n"], bits: np.random.PCG64) -> Int64[np.ndarray, " n"]:
    """An order that spreads every class evenly: the j-th of N_k rows falls at random in [j, j + 1) / N_k."""
    within = _unit_interval(len(labels), bits)
    place = (_rank_in_class(labels, bits) + within) / np.bincount(labels)[labels]
    return np.argsort(place, kind="stable")


def _unit_interval(count: int, bits: np.random.PCG64) -> Float64[np.ndarray, " n"]:
    return (bits.random_raw(count) >> np.uint64(11)) * 2.0**-53
