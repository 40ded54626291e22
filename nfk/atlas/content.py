"""What an atlas shows: a row for each image, in one order throughout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer, UInt8


class AtlasError(ValueError):
    """An atlas cannot be drawn; the message is one line."""


@dataclass(frozen=True)
class Category:
    """A colour for each kind: `kinds[values[i]]` is that of image i."""

    kinds: tuple[str, ...]
    values: Integer[np.ndarray, " n"]


@dataclass(frozen=True)
class Measure:
    """A colour by size. What is not finite is shown as unknown."""

    meaning: str
    values: Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Atlas:
    """The n images shown of `images_in_all`.

    categories: must have "label" and "split".
    shares: of the variance, each component's own; sums to at most 1.
    files: in which the images lie, where each has one of its own.
    """

    family: str
    dataset: str
    model: str
    digest: str
    images_in_all: int
    ids: Integer[np.ndarray, " n"]
    pixels: UInt8[np.ndarray, "n h w c"]
    embedding: Float[np.ndarray, "n k"]
    plane: Float[np.ndarray, "n 2"]
    shares: Float[np.ndarray, " k"]
    categories: Mapping[str, Category]
    measures: Mapping[str, Measure]
    files: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        named: list[tuple[str, Category | Measure]] = [*self.categories.items(), *self.measures.items()]
        for name, found in named:
            if len(found.values) != len(self.ids):
                raise AtlasError(f"{self.family}: {len(found.values)} values of {name} for {len(self.ids)} images; "
                                 "give one an image")
