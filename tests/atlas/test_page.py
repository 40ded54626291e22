"""What the file holds, read without a browser."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from nfk.atlas.content import AtlasError, Measure
from nfk.atlas.page import render
from nfk.atlas.sheet import LARGEST_SIDE, sheet
from tests.atlas.example_atlas import CLASSES, example_atlas


def tile(made, place: int) -> np.ndarray:
    left, top = place % made.columns * made.width, place // made.columns * made.height
    with Image.open(io.BytesIO(made.webp)) as whole:
        return np.asarray(whole.convert("RGB").crop((left, top, left + made.width, top + made.height)))


def test_the_page_holds_every_number_in_order():
    atlas = example_atlas()
    page = render(atlas)
    [text] = re.findall(r'<script type="application/json" id="content">(.*?)</script>', page, re.S)
    found = json.loads(text)
    assert found["ids"] == atlas.ids.tolist()
    embedding = np.frombuffer(base64.b64decode(found["embedding"]), "<f4").reshape(atlas.embedding.shape)
    assert np.array_equal(embedding, atlas.embedding)
    assert list(found["categories"]) == ["label", "split", "probe"]
    assert found["categories"]["label"] == {"kinds": list(CLASSES), "values": (np.arange(60) % 3).tolist()}
    assert found["measures"]["surprise"]["values"][4] is None
    assert "60 of 1,234 images" in page


def test_no_name_or_script_ends_a_script_element_early():
    page = render(example_atlas())
    assert page.count("</script") == page.count("<script>") + page.count('<script type="application/json"') == 3


def test_grey_images_are_kept_to_the_bit():
    pixels = example_atlas().pixels
    made = sheet(pixels)
    assert made[1:] == (8, 9, 9)
    for place in (0, 7, 8, 59):
        assert np.array_equal(tile(made, place), np.repeat(pixels[place], 3, axis=2))


def test_large_colour_images_are_made_smaller_in_proportion():
    colours = np.array([[200, 30, 40], [20, 180, 60], [30, 50, 220]], np.uint8)
    made = sheet(np.broadcast_to(colours[:, None, None], (3, 100, 200, 3)).copy())
    assert made[1:] == (2, LARGEST_SIDE, LARGEST_SIDE // 2)
    for place, colour in enumerate(colours):
        assert tile(made, place)[8:16, 16:32].mean(axis=(0, 1)) == pytest.approx(colour, abs=6)


def test_a_colour_for_other_images_is_refused():
    with pytest.raises(AtlasError, match="gan: 59 values of isolation for 60 images"):
        replace(example_atlas(), measures={"isolation": Measure("distance", np.zeros(59))})
