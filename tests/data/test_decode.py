"""Decoding gives the pixels or a refusal that names file and row, whatever the bytes."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nfk.data.decode import decode
from nfk.data.image_set import DataError

GREY = np.random.default_rng(1).integers(0, 256, (6, 5, 1), dtype=np.uint8)
COLOUR = np.random.default_rng(2).integers(0, 256, (6, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize(("pixels", "options"), [
    (GREY, {"kind": "PNG"}), (COLOUR, {"kind": "PNG"}), (GREY, {"kind": "BMP"}), (COLOUR, {"kind": "BMP"}),
    (COLOUR, {"kind": "WEBP", "lossless": True})])
def test_lossless_formats_give_back_the_pixels(encoded, pixels, options):
    np.testing.assert_array_equal(decode(encoded(pixels, **options), where="shard.parquet: row 0"), pixels)


def test_jpeg_gives_the_pixels_to_its_precision(encoded):
    flat = np.full((16, 16, 3), 77, np.uint8)
    assert np.abs(decode(encoded(flat, "JPEG"), where="shard.parquet: row 0").astype(int) - 77).max() <= 2


def test_exif_orientation_is_obeyed(encoded):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: to be turned by 90 degrees clockwise
    upright = np.rot90(COLOUR, k=1).copy()
    found = decode(encoded(upright, exif=exif), where="shard.parquet: row 0", shape=(6, 5, 3))
    np.testing.assert_array_equal(found, COLOUR)


@pytest.mark.parametrize("mode", ["RGBA", "P", "1", "LA", "I;16"])
def test_other_modes_are_refused(encoded, mode):
    with pytest.raises(DataError, match=rf"row 3: has mode {mode}, must be 8-bit grey \(L\) or RGB; convert"):
        decode(encoded(GREY, mode=mode), where="shard.parquet: row 3")


@pytest.mark.parametrize(("make", "message"), [
    (lambda encoded: encoded(COLOUR), "row 8: is 6 × 5 × 3, the first image is 6 × 5 × 1"),
    (lambda encoded: encoded(GREY[:5]), "row 8: is 5 × 5 × 1, the first image is 6 × 5 × 1"),
    (lambda encoded: encoded(np.rot90(GREY).copy()), "row 8: is 5 × 6 × 1, the first image is 6 × 5 × 1"),
    (lambda encoded: None, "row 8: holds no image bytes; store the image itself, not its path"),
    (lambda encoded: b"", "row 8: is no PNG, JPEG, WEBP or BMP image; convert it or drop it"),
    (lambda encoded: b"GIF89a" + bytes(40), "row 8: is no PNG, JPEG, WEBP or BMP image"),
    (lambda encoded: encoded(GREY)[:-30], "row 8: cannot be decoded .*; re-make it or drop it"),
])
def test_what_differs_or_is_damaged_is_refused(encoded, make, message):
    with pytest.raises(DataError, match=f"^shard.parquet: {message}"):
        decode(make(encoded), where="shard.parquet: row 8", shape=(6, 5, 1))


def png_of_size(width: int, height: int) -> bytes:
    """The header of a PNG of that size, and no pixels."""
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    header = chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_decompression_bombs_are_refused_by_their_header():
    with pytest.raises(DataError, match=r"row 0: cannot be decoded \(Image size \(3600000000 pixels\)"):
        decode(png_of_size(60_000, 60_000), where="shard.parquet: row 0")
    with pytest.raises(DataError, match="row 1: is 9000 × 9000 × 1, the first image is 6 × 5 × 1"):
        decode(png_of_size(9_000, 9_000), where="shard.parquet: row 1", shape=(6, 5, 1))


@pytest.mark.filterwarnings("ignore:Image size .* could be decompression bomb")  # as the command line has it
def test_more_pixels_than_any_image_may_have_are_refused_by_the_header():
    with pytest.raises(DataError, match=r"row 2: has 9,500 × 9,500 pixels, at most 89,478,485; make it smaller or"):
        decode(png_of_size(9_500, 9_500), where="shard.parquet: row 2")


@settings(deadline=None)
@given(kind=st.sampled_from(["PNG", "JPEG", "BMP", "WEBP"]), data=st.data())
def test_damaged_bytes_give_pixels_or_one_line(encoded, kind, data):
    content = bytearray(encoded(COLOUR, kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[:data.draw(st.integers(0, len(content)))]
    try:
        found = decode(bytes(content), where="shard.parquet: row 5", shape=COLOUR.shape)
    except DataError as refusal:
        assert str(refusal).startswith("shard.parquet: row 5: ")
        assert "\n" not in str(refusal)
    else:
        assert found.shape == COLOUR.shape
        assert found.dtype == np.uint8


def test_a_truncated_png_is_never_taken_for_whole(encoded):
    """Up to the last byte of its pixels: the 20 after them are two checksums and the end mark."""
    content = encoded(GREY)
    for length in range(len(content) - 20):
        with pytest.raises(DataError, match="row 0: "):
            decode(content[:length], where="shard.parquet: row 0")
