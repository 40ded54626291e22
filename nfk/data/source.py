"""A source of images, opened: all labels at hand, the pixels still on disk, read block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, Integer, UInt8

from nfk.data import classes
from nfk.data.image_set import DataError, ImageSet, unreadable
from nfk.data.memory import empty_images


class Block(NamedTuple):
    """Some images and the rows of the source they are; every row is in just one block, in any order."""

    rows: Int64[np.ndarray, " b"]
    images: UInt8[np.ndarray, "b h w c"]


class Part(NamedTuple):
    """The labels of one file or folder, and the words for it in an error."""

    labels: Integer[np.ndarray, " n"]
    path: Path | str


@dataclass(frozen=True)
class Source:
    """What an `ImageSet` is, with `blocks()` for the images: each call reads them once, from the first on.

    `shape` is that of an image (h, w, c); `path` is what to name when all of it is too large; `names` are the files in
    which the images lie, where each has one of its own.
    """

    path: Path | str
    shape: tuple[int, int, int]
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...]
    source: str
    digest: str
    test_from: int | None
    blocks: Callable[[], Iterator[Block]]
    names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, progress: Callable[[int, int], None] | None = None) -> ImageSet:
        """All images in memory: n h w c bytes. DataError, naming file and row, for what cannot be read."""
        images = empty_images((len(self), *self.shape), self.path)
        for block in self.reported(progress):
            images[block.rows] = block.images
        return ImageSet(images=images, labels=self.labels, class_names=self.class_names, source=self.source,
                        digest=self.digest, test_from=self.test_from)

    def counted(self) -> Iterator[Block]:
        """The blocks. DataError where they hold more or fewer images than there are labels, as in a damaged file, one
        of them twice, or where the disk fails."""
        done, seen = 0, np.zeros(len(self), bool)
        try:
            for block in self.blocks():
                done += len(block.rows)
                if done > len(self):
                    break
                seen[block.rows] = True
                yield block
        except OSError as error:
            raise unreadable(self.path, error) from error
        if done != len(self):
            more = "" if done < len(self) else "at least "
            raise DataError(f"{self.path}: {more}{done:,} images for {len(self):,} labels; fetch it again")
        if not seen.all():
            raise DataError(f"{self.path}: image {seen.argmin():,} does not come, another comes twice; fetch it again")

    def reported(self, progress: Callable[[int, int], None] | None) -> Iterator[Block]:
        """The blocks; after each, `progress` gets the images read and those there are."""
        done = 0
        for block in self.counted():
            yield block
            done += len(block.rows)
            if progress is not None:
                progress(done, len(self))


def consecutive(arrays: Iterator[UInt8[np.ndarray, "b h w c"]]) -> Iterator[Block]:
    """Blocks that follow one another, from row 0."""
    start = 0
    for images in arrays:
        yield Block(np.arange(start, start + len(images)), images)
        start += len(images)


class Labels(NamedTuple):
    """The labels of a whole source, its train part first."""

    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...]
    test_from: int | None


def joined(train: list[Part], test: list[Part], class_names: tuple[str, ...] | None = None) -> Labels:
    """The parts' labels one after another, each a class: of `class_names`, or numbered as the train part's are."""
    counts = [sum(len(part.labels) for part in parts) for parts in (train, test)]
    if counts[0] == 0 or (test and counts[1] == 0):
        raise DataError(f"{(test if counts[0] else train)[0].path}: holds no images; fetch the file again")
    if class_names is None:
        class_names = classes.numbered(np.concatenate([part.labels for part in train]), train[0].path)
    for part in (*train, *test):
        classes.check(part.labels, class_names, part.path)
    labels = np.concatenate([part.labels.astype(np.int32) for part in (*train, *test)])
    return Labels(labels, class_names, counts[0] if test else None)
