"""Encoded image files to pixels."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from nfk.data.image_set import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
CHANNELS = {"L": 1, "RGB": 3}  # by Pillow's mode


def decode(encoded: bytes | None, *, file: Path, row: int,
           shape: tuple[int, int, int] | None = None) -> UInt8[np.ndarray, "h w c"]:
    """The pixels of one image, turned upright where its EXIF orientation says so.

    With `shape` (h, w, c), any other is refused; one of more or fewer pixels is refused by its header, before
    anything is decoded. Pillow refuses headers that announce more than 179 million pixels. Raises DataError
    naming `file` and `row` for these, for a mode other than 8-bit grey or RGB, and for damaged bytes.
    """
    if encoded is None:
        raise DataError(f"{file}: row {row}: holds no image bytes; store the image itself, not its path")
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            fault = _fault(image, shape)
            if fault is None:
                ImageOps.exif_transpose(image, in_place=True)
                fault = _fault(image, shape, upright=True)
            if fault is None:
                return np.asarray(image).reshape(image.height, image.width, -1)
    except Image.UnidentifiedImageError:
        fault = f"is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image; convert it or drop the row"
    except Exception as error:  # hostile bytes make Pillow raise nearly anything, SyntaxError included
        reason = " ".join(str(error).split())
        message = f"{file}: row {row}: cannot be decoded ({reason}); re-make it or drop the row"
        raise DataError(message) from error
    raise DataError(f"{file}: row {row}: {fault}")


def _fault(image: Image.Image, shape: tuple[int, int, int] | None, *, upright: bool = False) -> str | None:
    """What is wrong with an image's mode or size, with the remedy; before turning, h and w may be swapped."""
    if image.mode not in CHANNELS:
        return f"has mode {image.mode}, must be 8-bit grey (L) or RGB; convert it"
    found = (image.height, image.width, CHANNELS[image.mode])
    if shape is None or found == shape or (not upright and sorted(found) == sorted(shape)):
        return None
    return (f"is {' × '.join(map(str, found))}, the first image is {' × '.join(map(str, shape))} "
            "(height × width × channels); make all images one size and one mode")
