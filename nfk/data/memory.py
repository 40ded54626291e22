"""Room for the images, asked for before they are read."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import psutil
from jaxtyping import UInt8

from nfk.data.image_set import DataError


def empty_images(shape: tuple[int, int, int, int], source: Path | str) -> UInt8[np.ndarray, "n h w c"]:
    """An uninitialised array, refused where it exceeds the memory at hand.

    The shape comes from headers that nothing vouches for: a few bytes can claim terabytes, which the system
    would grant and then end the process for touching.
    """
    needed, available = math.prod(shape), psutil.virtual_memory().available
    try:
        if needed <= available:
            return np.empty(shape, np.uint8)
    except MemoryError:  # a process may have a bound of its own
        pass
    raise DataError(f"{source}: its headers announce {' × '.join(map(str, shape))} bytes = "
                    f"{needed / 2**30:,.1f} GiB of images, {available / 2**30:,.1f} GiB of memory are "
                    "available; use fewer or smaller images, or check that the file is whole")


def check_room(needed: int, what: str, remedy: str) -> None:
    """DataError where `needed` bytes, which a header announces, are more than the memory at hand."""
    available = psutil.virtual_memory().available
    if needed > available:
        raise DataError(f"{what} needs {needed / 2**30:,.1f} GiB of memory by its header, {available / 2**30:,.1f} GiB "
                        f"are available; {remedy}, or check that the file is whole")
