"""Encoded image files to pixels, and pixels to the size and channels asked for."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from nfk.data.image_set import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
CHANNELS = {"L": 1, "RGB": 3}  # by Pillow's mode
MODES = {"grey": "L", "colour": "RGB"}
_MOST_PIXELS = 89_478_485  # above which Pillow warns of a bomb: 256 MiB of RGB
_SLICE = 128  # images decoded by a thread before it takes the next
_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class Wanted:
    """What every image is made into. None: as it is, and then all must be alike.

    `size` (h, w): resized by Pillow's bilinear filter, whose triangle widens with the reduction (antialiased);
    proportions are not kept. `channels`: "grey" is ITU-R 601 luma, 0.299 R + 0.587 G + 0.114 B; "colour" repeats
    grey three times.
    """

    size: tuple[int, int] | None = None
    channels: str | None = None

    def shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """What an image of `shape` becomes."""
        channels = CHANNELS[MODES[self.channels]] if self.channels else shape[2]
        return (*(self.size or shape[:2]), channels)

    def made(self, image: Image.Image) -> Image.Image:
        """The image in the channels and size wanted; itself where it is right as it is."""
        if self.channels and image.mode != MODES[self.channels]:
            image = image.convert(MODES[self.channels])
        if self.size and (image.height, image.width) != self.size:
            image = image.resize(self.size[::-1], Image.Resampling.BILINEAR)
        return image

    def made_all(self, images: UInt8[np.ndarray, "b h w c"]) -> UInt8[np.ndarray, "b h2 w2 c2"]:
        """The same of pixels at hand; themselves where they are right as they are."""
        shape = self.shape(images.shape[1:])
        if shape == images.shape[1:]:
            return images
        out = np.empty((len(images), *shape), np.uint8)
        for row, image in enumerate(images):
            plain = Image.fromarray(np.ascontiguousarray(image[..., 0] if image.shape[-1] == 1 else image))
            out[row] = np.asarray(self.made(plain)).reshape(shape)
        return out


AS_IT_IS = Wanted()


class _Like(NamedTuple):
    """Height, width and channels that an encoded image must have; None: any."""

    height: int | None
    width: int | None
    channels: int | None


def decode(encoded: bytes | None, *, where: str, wanted: Wanted = AS_IT_IS,
           shape: tuple[int, int, int] | None = None) -> UInt8[np.ndarray, "h w c"]:
    """The pixels of one image as `wanted`, turned upright where its EXIF orientation says so.

    With `shape` (h, w, c), any other is refused; one of more or fewer pixels is refused by its header, before
    anything is decoded, as are more than 89 million pixels, which a few bytes can announce. Raises DataError
    that begins with `where` for these, for a mode other than 8-bit grey or RGB, and for damaged bytes.
    """
    if encoded is None:
        raise DataError(f"{where}: holds no image bytes; store the image itself, not its path")
    like = _Like(None, None, None)
    if shape is not None:
        height, width = (None, None) if wanted.size else shape[:2]
        like = _Like(height, width, None if wanted.channels else shape[2])
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            fault = _fault(image, like)
            if fault is None:
                ImageOps.exif_transpose(image, in_place=True)
                fault = _fault(image, like, upright=True)
            if fault is None:
                made = wanted.made(image)
                return np.asarray(made).reshape(made.height, made.width, -1)
    except Image.UnidentifiedImageError:
        fault = f"is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image; convert it or drop it"
    except Exception as error:  # hostile bytes make Pillow raise nearly anything, SyntaxError included
        reason = " ".join(str(error).split())
        raise DataError(f"{where}: cannot be decoded ({reason}); re-make it or drop it") from error
    raise DataError(f"{where}: {fault}")


def _fault(image: Image.Image, like: _Like, *, upright: bool = False) -> str | None:
    """What is wrong with an image's mode or size, with the remedy; before turning, h and w may be swapped."""
    if image.mode not in CHANNELS:
        return f"has mode {image.mode}, must be 8-bit grey (L) or RGB; convert it"
    if image.height * image.width > _MOST_PIXELS:
        return f"has {image.height:,} × {image.width:,} pixels, at most {_MOST_PIXELS:,}; make it smaller or drop it"
    found = (image.height, image.width, CHANNELS[image.mode])
    turned = found if upright else (image.width, image.height, found[2])
    if any(all(want in (None, has) for want, has in zip(like, way, strict=True)) for way in (found, turned)):
        return None
    must = " × ".join("any" if want is None else str(want) for want in like)
    return (f"is {' × '.join(map(str, found))}, the first image is {must} (height × width × channels); make all "
            "images one size and one mode, or have them resized (data.resize and data.channels, or --resize)")


@runtime_checkable
class Decoder(Protocol):
    """Decodes b encoded images to uint8 (b, h, w, c), on threads."""

    def __call__(self, encoded: Sequence[bytes | None], where: Sequence[str]) -> UInt8[np.ndarray, "b h w c"]:
        """All of them, made as wanted; the first faulty one in order is the one reported."""


@contextmanager
def decoder(wanted: Wanted, shape: tuple[int, int, int]) -> Iterator[Decoder]:
    """A Decoder of images that must be of `shape` once made as `wanted`."""
    with ThreadPoolExecutor(_THREADS) as pool:
        def decode_all(encoded: Sequence[bytes | None], where: Sequence[str]) -> UInt8[np.ndarray, "b h w c"]:
            out = np.empty((len(encoded), *shape), np.uint8)

            def decode_from(start: int) -> None:
                for index in range(start, min(start + _SLICE, len(encoded))):
                    out[index] = decode(encoded[index], where=where[index], wanted=wanted, shape=shape)

            for _ in pool.map(decode_from, range(0, len(encoded), _SLICE)):
                pass  # taking the result raises what the thread raised
            return out

        yield decode_all
