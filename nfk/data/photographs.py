"""Pieces of the two photographs that scikit-learn ships: real images of no other data set, without a download."""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import UInt8

from nfk.data.decode import Wanted

NAME = "photographs"


def pieces(shape: tuple[int, int, int]) -> UInt8[np.ndarray, "n h w c"]:
    """All pieces of h x w pixels that do not overlap, grey or in colour as `shape` has it, from the upper left corner
    of each photograph on. 660 of 28 x 28."""
    from sklearn.datasets import load_sample_images

    height, width, channels = shape
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the image reader's own age
        photographs = load_sample_images().images
    for photograph in photographs:
        made = Wanted(channels="grey" if channels == 1 else "colour").made_all(photograph[None])[0]
        rows, columns = made.shape[0] // height, made.shape[1] // width
        cut = made[: rows * height, : columns * width].reshape(rows, height, columns, width, channels)
        found.append(cut.swapaxes(1, 2).reshape(-1, height, width, channels))
    return np.concatenate(found)
