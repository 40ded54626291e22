"""All images of an atlas in one picture, so that the page holds them in few bytes."""

from __future__ import annotations

import io
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

LARGEST_SIDE = 48
"""Pixels; larger images are made smaller, proportions kept. 4,096 of them make a sheet of 3,072 pixels a side."""
_QUALITY = 90


class Sheet(NamedTuple):
    """Image i is the tile in row i // columns, column i % columns."""

    webp: bytes
    columns: int
    width: int
    height: int
    """of one tile"""


def sheet(pixels: UInt8[np.ndarray, "n h w c"]) -> Sheet:
    """A nearly square WebP: lossless for grey images, which are then smallest too, else at quality 90."""
    n, height, width, channels = pixels.shape
    columns = math.ceil(math.sqrt(n))
    shrink = min(1.0, LARGEST_SIDE / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    whole = Image.new("RGB", (columns * size[0], -(-n // columns) * size[1]))
    for place, image in enumerate(pixels):
        tile = Image.fromarray(image[..., 0] if channels == 1 else image)
        if tile.size != size:
            tile = tile.resize(size, Image.Resampling.LANCZOS)
        whole.paste(tile, (place % columns * size[0], place // columns * size[1]))
    content = io.BytesIO()
    whole.save(content, "WEBP", lossless=channels == 1, quality=_QUALITY)
    return Sheet(content.getvalue(), columns, *size)
