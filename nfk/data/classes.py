"""Labels against the classes they index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from nfk.data.image_set import DataError

MOST_UNNAMED_CLASSES = 65_536


def numbered(labels: Integer[np.ndarray, " n"], file: Path | str) -> tuple[str, ...]:
    """Names for the classes of a source that has none: "0" to the largest label.

    `labels` are those of the train part, so that a label seen only in the test part is refused.
    """
    largest = int(labels.max(initial=0))
    if largest >= MOST_UNNAMED_CLASSES:
        row = int(labels.argmax())
        raise DataError(f"{file}: row {row}: label {largest} without class names must be below "
                        f"{MOST_UNNAMED_CLASSES}; number the classes from 0, or name them in the file")
    return tuple(str(number) for number in range(largest + 1))


def check(labels: Integer[np.ndarray, " n"], class_names: Sequence[str], file: Path | str) -> None:
    """DataError that names the first row of `file` whose label is no class."""
    outside = (labels < 0) | (labels >= len(class_names))
    if outside.any():
        row = int(outside.argmax())
        raise DataError(f"{file}: row {row}: label {labels[row]} is outside the classes 0 to "
                        f"{len(class_names) - 1}; correct the label or drop the row")
