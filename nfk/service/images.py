"""The images of a request: files as they are, files of a form, or numbers in JSON; none of it trusted.

Every image must have the network's own height, width and channels, or with `resize` is brought to them. An image's
header is read before its pixels: one that announces more than 2^25 pixels, or another size where none is resized, is
never decoded.
"""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
import orjson
from jaxtyping import Float32, UInt8
from PIL import Image
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder

from nfk.data.decode import FORMATS, Wanted, decode
from nfk.data.image_set import DataError

MOST_IMAGES = 256
MOST_JSON = 1 << 22  # bytes; a number takes some ten times its text while it is read
_MOST_PIXELS = 1 << 25
_FILES = {"image/png", "image/jpeg", "image/webp", "image/bmp", "application/octet-stream"}


class Refused(Exception):
    """A request that cannot be served; an HTTP status and one line."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Given(NamedTuple):
    images: UInt8[np.ndarray, "n h w c"] | Float32[np.ndarray, "n h w c"]
    """pixels, or numbers in [0, 1] as they came"""
    names: list[str] | None
    """of a form's files"""


def read(body: bytes, content_type: str, shape: tuple[int, int, int], *, resize: bool = False) -> Given:
    """The images of a body, in order, of `shape` (h, w, c). Refused (400, 413, 415 or 422) naming the first one that
    cannot be used. Memory: the body, and h w c bytes an image beside one image in decoding."""
    kind, options = parse_options_header(content_type)
    if kind == "application/json":
        return Given(_numbers(body, shape), None)
    if kind == "multipart/form-data":
        files = _parts(body, options.get("boundary", ""))
        names = [name for name, _ in files]
        return Given(_decoded([content for _, content in files], names, shape, resize), names)
    if kind in _FILES:
        return Given(_decoded([body], ["image"], shape, resize), None)
    raise Refused(415, f"Content-Type {_short(kind) or '(none)'}: must be multipart/form-data (files), image/png, "
                       "image/jpeg, image/webp, image/bmp (one file) or application/json ([[[...]]])")


def _decoded(
    files: list[bytes], names: list[str], shape: tuple[int, int, int], resize: bool
) -> UInt8[np.ndarray, "n h w c"]:
    out = np.empty((len(files), *shape), np.uint8)
    wanted = Wanted(shape[:2], "grey" if shape[2] == 1 else "colour") if resize else Wanted()
    for row, (content, name) in enumerate(zip(files, names, strict=True)):
        name = _short(name)
        _check_size(content, name)
        try:
            found = decode(content, where=name, wanted=wanted)
        except DataError as error:
            raise Refused(400, " ".join(str(error).split())[:300]) from None
        if found.shape != shape:
            raise Refused(422, f"{name}: {_by(found.shape)} (height × width × channels), the network takes "
                               f"{_by(shape)}; ask with ?resize=true")
        out[row] = found
    return out


def _check_size(content: bytes, name: str) -> None:
    """By the header alone. What is no image is left to `decode`, which has the words for it."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
    except Exception:  # hostile bytes make Pillow raise nearly anything; `decode` meets the same, and says it
        return
    if width * height > _MOST_PIXELS:
        raise Refused(413, f"{name}: {height:,} × {width:,} pixels, {_MOST_PIXELS:,} at most; make it smaller first")


def _parts(body: bytes, boundary: str) -> list[tuple[str, bytes]]:
    """Name and content of every file of a form, in order; other fields are passed over."""
    if not boundary:
        raise Refused(400, "multipart/form-data without a boundary; let the client set Content-Type itself")
    found: list[tuple[str, list[bytes]]] = []
    into: list[bytes] | None = None
    try:
        decoder = MultipartDecoder(boundary.encode("latin-1"), max_form_memory_size=None,
                                   max_parts=2 * MOST_IMAGES)
        decoder.receive_data(body)
        decoder.receive_data(None)  # that is all: a form cut short is a ValueError, and no event is waited for
        while not isinstance(event := decoder.next_event(), Epilogue):
            if isinstance(event, File):
                into = []
                found.append((event.filename or event.name or f"image {len(found) + 1}", into))
            elif isinstance(event, Field):
                into = None
            elif isinstance(event, Data) and into is not None:
                into.append(event.data)
    except RequestEntityTooLarge:
        raise Refused(413, f"more than {2 * MOST_IMAGES} parts in the form; at most {MOST_IMAGES} images") from None
    except (ValueError, KeyError, UnicodeError) as error:
        raise Refused(400, f"malformed multipart/form-data ({_short(' '.join(str(error).split()))})") from None
    _check_count(len(found), "no file in the form; send curl -F image=@FILE.png")
    return [(name, b"".join(chunks)) for name, chunks in found]


def _numbers(body: bytes, shape: tuple[int, int, int]) -> Float32[np.ndarray, "n h w c"]:
    """[[[...]]] or {"images": [[[...]]]}: images as (h, w, c), or (h, w) for grey ones, of numbers in [0, 1]."""
    if len(body) > MOST_JSON:
        raise Refused(413, f"{len(body):,} bytes of JSON, {MOST_JSON:,} at most; send fewer images, or files")
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"no JSON ({_short(str(error))})") from None
    images = found.get("images") if isinstance(found, dict) else found
    if not isinstance(images, list):
        raise Refused(422, 'JSON without images: must be a list of images, or {"images": [...]}')
    _check_count(len(images), "no images; give one at least")
    out = np.empty((len(images), *shape), np.float32)
    for place, image in enumerate(images):
        out[place] = _image(image, shape, place)
    low, high = float(out.min()), float(out.max())
    if not (low >= 0 and high <= 1):  # false for NaN too
        raise Refused(422, f"numbers from {low:g} to {high:g}: must be in [0, 1]; divide 8-bit ones by 255")
    return out


def _image(image: Any, shape: tuple[int, int, int], place: int) -> Float32[np.ndarray, "h w c"]:
    """One image. Its rows are measured before they are converted: NumPy does that in one go, which stops all else."""
    height, width, channels = shape
    if (not isinstance(image, list) or len(image) != height
            or not all(isinstance(row, list) and len(row) == width for row in image)):
        raise Refused(422, f"image {place}: must be {height} rows of {width} pixels of {channels} channels")
    try:
        rows = [np.asarray(row) for row in image]
    except ValueError:  # ragged
        raise Refused(422, f"image {place}: its pixels must have {channels} numbers each") from None
    for row in rows:
        if row.dtype.kind not in "iuf":
            raise Refused(422, f"image {place}: must hold numbers alone")
        if row.shape not in ((width, channels), (width,) if channels == 1 else (width, channels)):
            raise Refused(422, f"image {place}: its pixels must have {channels} numbers each")
    return np.stack(rows).astype(np.float32).reshape(shape)


def _check_count(count: int, none: str) -> None:
    if count == 0:
        raise Refused(422, none)
    if count > MOST_IMAGES:
        raise Refused(413, f"{count:,} images, {MOST_IMAGES} at most in one request; send several")


def _by(shape: tuple[int, ...]) -> str:
    return " × ".join(f"{extent:,}" for extent in shape)


def _short(text: str) -> str:
    """What a stranger wrote, fit for one line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:80])
