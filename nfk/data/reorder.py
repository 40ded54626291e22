"""Images of a source in another order, through a file: what is in memory is a block, however many there are."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from nfk import durable
from nfk.data.image_set import DataError
from nfk.data.source import Source

_UNWANTED = -2  # no neighbour of a place


def in_order(source: Source, order: Int64[np.ndarray, " m"], rows_at_once: int, folder: Path,
             progress: Callable[[int, int], None] | None = None) -> Iterator[UInt8[np.ndarray, "b h w c"]]:
    """The distinct rows `order` of `source`, in that order, `rows_at_once` at a time (fewer at the end).

    Every image of the source is read, so that a fault in any is found, and those wanted are put in their places in
    a file without a name in `folder`, of their size unpacked. DataError if the disk has not that room.
    """
    width = math.prod(source.shape)
    needed, free = len(order) * width, shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(f"{source.path}: {len(order):,} images of {' × '.join(map(str, source.shape))} need "
                        f"{needed / 2**30:,.1f} GiB beside their store, {free / 2**30:,.1f} GiB are free in {folder}; "
                        "make room, use fewer or smaller images, or check that the file is whole")
    place = np.full(len(source), _UNWANTED, np.int64)
    place[order] = np.arange(len(order))
    with durable.nameless(folder) as scratch:
        for block in source.reported(progress):
            for start, run in _runs(place[block.rows]):
                scratch.write(np.ascontiguousarray(block.images[run]), start * width)
        for start in range(0, len(order), rows_at_once):
            count = min(rows_at_once, len(order) - start)
            rows = np.empty((count, *source.shape), np.uint8)
            if not scratch.read_into(rows, start * width):
                raise DataError(f"{source.path}: only some of its images could be kept in {folder}; run again")
            yield rows


def _runs(place: Int64[np.ndarray, " b"]) -> Iterator[tuple[int, slice]]:
    """Stretches of rows wanted whose places follow one another: the first place, and the rows."""
    starts = np.flatnonzero(np.diff(place, prepend=2 * _UNWANTED) != 1)
    for start, stop in zip(starts, [*starts[1:], len(place)], strict=True):
        if place[start] >= 0:
            yield int(place[start]), slice(int(start), int(stop))
