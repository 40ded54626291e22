"""The data store as later stages see it: splits of images in [0, 1], decoded block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from nfk import store
from nfk.params import Params
from nfk.stages import workspace

SPLITS = ("train", "validation", "test")


class UnitImages:
    """Rows [start, stop) of stored uint8 images as float32 in [0, 1]; read and scaled only when sliced."""

    def __init__(self, images: Any, start: int, stop: int) -> None:
        self._images, self._start = images, start
        self.shape = (stop - start, *images.shape[1:])

    def __getitem__(self, rows: slice) -> Float32[np.ndarray, "b h w c"]:
        start, stop, _ = rows.indices(self.shape[0])
        return unit(self._images[self._start + start : self._start + stop])


def unit(pixels: UInt8[np.ndarray, "b h w c"]) -> Float32[np.ndarray, "b h w c"]:
    """Intensities in [0, 1]."""
    return np.asarray(pixels, np.float32) / np.float32(255)


@dataclass(frozen=True)
class Images:
    """The stored data set."""

    digest: str
    class_names: tuple[str, ...]
    source: str
    shape: tuple[int, int, int]
    ranges: dict[str, tuple[int, int]]
    _images: Any
    _labels: Int32[np.ndarray, " n"]
    _source_rows: Any

    def pixels(self, split: str, most: int | None = None) -> UInt8[np.ndarray, "m h w c"]:
        """Images of a split in memory, the leading `most` of them."""
        start, stop = self._range(split, most)
        return np.asarray(self._images[start:stop])

    def labels(self, split: str, most: int | None = None) -> Int32[np.ndarray, " m"]:
        start, stop = self._range(split, most)
        return self._labels[start:stop]

    def source_rows(self, split: str) -> np.ndarray:
        """Each image's row in the source: the id that follows it through every store."""
        start, stop = self._range(split, None)
        return np.asarray(self._source_rows[start:stop])

    def examples(self, split: str, most: int | None = None) -> UnitImages:
        """The split as float32 in [0, 1], streamed."""
        return UnitImages(self._images, *self._range(split, most))

    def _range(self, split: str, most: int | None) -> tuple[int, int]:
        start, stop = self.ranges[split]
        return start, stop if most is None else min(stop, start + most)


def load(params: Params) -> Images:
    """The data set of params.yaml; StoreError if its store is absent, unfinished or damaged."""
    found = store.read(workspace.data_store(params))
    attributes = found.attributes
    return Images(found.digest, tuple(attributes["class_names"]), attributes["source"],
                  tuple(found["images"].shape[1:]),
                  {split: tuple(attributes["splits"][split]) for split in SPLITS},
                  found["images"], np.asarray(found["labels"][:]), found["source_row"])
