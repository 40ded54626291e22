"""A request's body to pixels: what is right comes out as it went in, what is wrong is refused by name."""

from __future__ import annotations

import io
import json
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from nfk.service.images import MOST_IMAGES, MOST_JSON, Refused, read
from tests.service.load import png

SHAPE = (6, 5, 1)
GREY = np.random.default_rng(0).integers(0, 256, (3, *SHAPE)).astype(np.uint8)
AS_JSON = "application/json"


def form(files: dict[str, bytes], boundary: str = "b") -> tuple[bytes, str]:
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="f"; filename="{name}"\r\n'
             f"Content-Type: image/png\r\n\r\n".encode() + content + b"\r\n" for name, content in files.items()]
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def refusal(body: bytes, kind: str, **options) -> Refused:
    with pytest.raises(Refused) as found:
        read(body, kind, SHAPE, **options)
    assert "\n" not in str(found.value)
    return found.value


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", "image/png; charset=binary"])
def test_one_file_as_the_body(kind):
    given = read(png(GREY[0]), kind, SHAPE)
    assert np.array_equal(given.images, GREY[:1])
    assert given.names is None


def test_the_files_of_a_form_in_order_with_their_names():
    body, kind = form({"b.png": png(GREY[1]), "a.png": png(GREY[0])})
    field = b'--b\r\nContent-Disposition: form-data; name="note"\r\n\r\nnot an image\r\n'
    given = read(field + body, kind, SHAPE)
    assert np.array_equal(given.images, GREY[[1, 0]])
    assert given.names == ["b.png", "a.png"]


@pytest.mark.parametrize("wrap", [lambda images: images, lambda images: {"images": images}])
@pytest.mark.parametrize("flat", [False, True])
def test_numbers_of_json(wrap, flat):
    images = GREY.astype(np.float32) / 255
    body = json.dumps(wrap((images[..., 0] if flat else images).tolist())).encode()
    found = read(body, AS_JSON, SHAPE).images
    assert found.dtype == np.float32
    assert np.array_equal(found, images)


def test_colour_is_held_to_its_channels():
    colour = np.random.default_rng(1).integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    assert np.array_equal(read(png(colour[0]), "image/png", (4, 4, 3)).images, colour[:1])
    body = json.dumps((colour / 255).tolist()).encode()
    assert read(body, AS_JSON, (4, 4, 3)).images.shape == (2, 4, 4, 3)
    with pytest.raises(Refused, match="image 0: its pixels must have 3 numbers each"):
        read(json.dumps((colour[..., 0] / 255).tolist()).encode(), AS_JSON, (4, 4, 3))


def test_another_size_is_refused_and_with_resize_made_right():
    large = png(np.full((12, 10, 3), 99, np.uint8))
    fault = refusal(large, "image/png")
    assert fault.status == 422
    assert "12 × 10 × 3 (height × width × channels), the network takes 6 × 5 × 1; ask with ?resize=true" in str(fault)
    assert np.array_equal(read(large, "image/png", SHAPE, resize=True).images, np.full((1, *SHAPE), 99, np.uint8))


def bomb(width: int, height: int) -> bytes:
    """A small PNG that announces, and has, width x height grey pixels."""
    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    packed = zlib.compressobj(9)
    row = bytes(width + 1)
    rows = b"".join(packed.compress(row) for _ in range(height)) + packed.flush()
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\0\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("resize", [False, True])
def test_a_decompression_bomb_is_refused_by_its_header(resize):
    packed = bomb(9000, 9000)
    assert len(packed) < 200_000
    started = time.process_time()
    fault = refusal(packed, "image/png", resize=resize)
    assert fault.status == 413
    assert "9,000 × 9,000 pixels, 33,554,432 at most" in str(fault)
    assert time.process_time() - started < 0.1  # 81 million pixels take longer


@pytest.mark.parametrize(("body", "kind", "status", "message"), [
    (b"", "image/png", 400, "image: is no PNG"),
    (png(GREY[0])[:40], "image/png", 400, "image: "),
    (b"GIF89a", "image/gif", 415, "Content-Type image/gif: must be multipart/form-data"),
    (b"x", "", 415, r"Content-Type (none)"),
    (b"x", "multipart/form-data", 400, "without a boundary"),
    (b"x", "multipart/form-data; boundary=b", 400, "malformed multipart/form-data"),
    (form({"a.png": png(GREY[0])})[0][:-9], "multipart/form-data; boundary=b", 400, "malformed multipart/form-data"),
    (b"--b--\r\n", "multipart/form-data; boundary=b", 422, "no file in the form"),
    (b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--b--\r\n', "multipart/form-data; boundary=b", 422,
     "no file in the form"),
    (form({f"{place}": b"" for place in range(MOST_IMAGES + 1)})[0], "multipart/form-data; boundary=b", 413,
     f"{MOST_IMAGES + 1} images, {MOST_IMAGES} at most"),
    (form({f"{place}": b"" for place in range(2 * MOST_IMAGES + 1)})[0], "multipart/form-data; boundary=b", 413,
     "more than"),
    (form({"good.png": png(GREY[0]), "bad\x07.png": b"no"})[0], "multipart/form-data; boundary=b", 400, "bad?.png: is"),
    (b"{", AS_JSON, 400, "no JSON"),
    (b"[" * 3000, AS_JSON, 400, "no JSON"),
    (b" " * (MOST_JSON + 1), AS_JSON, 413, "bytes of JSON"),
    (b"7", AS_JSON, 422, "must be a list of images"),
    (b'{"image": []}', AS_JSON, 422, "must be a list of images"),
    (b"[]", AS_JSON, 422, "no images"),
    (json.dumps([[]] * (MOST_IMAGES + 1)).encode(), AS_JSON, 413, f"{MOST_IMAGES} at most"),
    (json.dumps([[[0] * 5] * 5]).encode(), AS_JSON, 422, "image 0: must be 6 rows of 5 pixels of 1 channels"),
    (json.dumps([[[0] * 5] * 6, [[0] * 4] * 6]).encode(), AS_JSON, 422, "image 1: must be 6 rows of 5 pixels"),
    (json.dumps([[[[0, 1]] * 5] * 6]).encode(), AS_JSON, 422, "its pixels must have 1 numbers each"),
    (json.dumps([[[[0], [0], [0], [0], [0, 1]]] * 6]).encode(), AS_JSON, 422, "its pixels must have 1 numbers each"),
    (json.dumps([[["0"] * 5] * 6]).encode(), AS_JSON, 422, "must hold numbers alone"),
    (json.dumps([[[True] * 5] * 6]).encode(), AS_JSON, 422, "must hold numbers alone"),
    (json.dumps([[[None] * 5] * 6]).encode(), AS_JSON, 422, "must hold numbers alone"),
    (json.dumps([[[{}] * 5] * 6]).encode(), AS_JSON, 422, "must hold numbers alone"),
    (json.dumps([[[10**30] * 5] * 6]).encode(), AS_JSON, 422, ""),
    (json.dumps([[[255] * 5] * 6]).encode(), AS_JSON, 422, "numbers from 255 to 255: must be in [0, 1]; divide"),
    (json.dumps([[[-1e-9] * 5] * 6]).encode(), AS_JSON, 422, "must be in [0, 1]"),
])
def test_what_is_wrong_is_refused_by_name(body, kind, status, message):
    fault = refusal(body, kind)
    assert (fault.status, message in str(fault)) == (status, True), str(fault)


def test_damage_anywhere_in_a_file_is_refused_or_harmless():
    """Every byte of a PNG changed, and every length cut: 400, 413 or 422, or an image of the right shape."""
    whole, statuses = png(GREY[0]), set()
    for place in range(len(whole)):
        for body in (whole[:place], whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :]):
            try:
                assert read(body, "image/png", SHAPE).images.shape == (1, *SHAPE)
            except Refused as fault:
                statuses.add(fault.status)
    assert statuses <= {400, 413, 422}
    assert 400 in statuses


def test_an_image_of_another_mode_says_so():
    out = io.BytesIO()
    Image.fromarray(GREY[0, :, :, 0]).convert("P").save(out, "PNG")
    fault = refusal(out.getvalue(), "image/png")
    assert fault.status == 400
    assert "has mode P, must be 8-bit grey (L) or RGB" in str(fault)
