"""What every reader returns: labelled images of one size, in the source's order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8

from nfk.one_line import OneLine


class DataError(OneLine):
    """The images cannot be used; one line that names the file, the row or key, and the remedy."""


def unreadable(path: Path | str, error: OSError) -> DataError:
    """The system's refusal to read the file, or one in this folder, in a line."""
    return DataError(f"{error.filename or path}: cannot be read ({error.strerror}); check its permissions and the disk")


@dataclass(frozen=True)
class ImageSet:
    """n labelled images, all h × w with c channels (1: grey, 3: RGB), 0 = black to 255.

    Raises DataError unless there is an image, a label for each, and a class for each label.
    """

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int32[np.ndarray, " n"]
    """The class of each image, an index into `class_names`."""

    class_names: tuple[str, ...]
    source: str
    """Where the images come from, for people."""

    digest: str
    """Which bytes were read: see `nfk.data.digest.digest`."""

    test_from: int | None = None
    """The row at which the source's own test part starts, to the end; None where it has no such part."""

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise DataError(f"images: {self.images.dtype} of shape {self.images.shape}; "
                            "must be uint8 of shape (n, h, w, c)")
        if self.images.size == 0 or self.images.shape[-1] not in (1, 3):
            raise DataError(f"images: shape {self.images.shape}; there must be at least one image, "
                            "of at least one pixel, with 1 or 3 channels")
        count = len(self.images)
        if self.labels.dtype != np.int32 or self.labels.shape != (count,):
            raise DataError(f"labels: {self.labels.dtype} of shape {self.labels.shape}; "
                            f"must be int32 of shape ({count},), one an image")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.class_names):
            raise DataError(f"labels: from {low} to {high}; must be at least 0 and below "
                            f"{len(self.class_names)}, the number of class names")
        if self.test_from is not None and not 0 < self.test_from < count:
            raise DataError(f"test_from={self.test_from}: must be above 0 and below {count}, the number of "
                            "images; give None where the source has no test part")

    def __len__(self) -> int:
        return len(self.images)
