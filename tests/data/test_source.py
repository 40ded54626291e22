"""As many images as labels: a source that has others was damaged, and is not read in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nfk.data.image_set import DataError
from nfk.data.source import Block, Source, consecutive
from nfk.data.subset import of_classes


def source(images: int) -> Source:
    """Four labels, and so many images."""
    return Source(Path("pets"), (1, 1, 1), np.array([0, 1, 1, 0], np.int32), ("ant", "bee"), "pets", "0" * 64, None,
                  lambda: consecutive(iter(np.split(np.arange(images, dtype=np.uint8).reshape(-1, 1, 1, 1), [2]))))


def of_blocks(blocks) -> Source:
    return Source(Path("pets"), (1, 1, 1), np.zeros(2, np.int32), ("ant", "bee"), "pets", "0" * 64, None, blocks)


def test_an_image_that_comes_twice_is_refused():
    """The other's place in memory would be anything."""
    twice = [Block(np.array([row]), np.zeros((1, 1, 1, 1), np.uint8)) for row in (1, 1)]
    with pytest.raises(DataError, match=r"^pets: image 0 does not come, another comes twice; fetch it again$"):
        of_blocks(lambda: iter(twice)).load()


@pytest.mark.parametrize(("file", "named"), [(None, "pets"), ("pets/1.png", "pets/1.png")])
def test_a_disk_that_fails_between_blocks_is_told_with_the_file(file, named):
    def blocks():
        yield Block(np.array([0]), np.zeros((1, 1, 1, 1), np.uint8))
        raise OSError(5, "Input/output error", file)

    with pytest.raises(DataError, match=rf"^{named}: cannot be read \(Input/output error\); check its permissions"):
        of_blocks(blocks).load()


def test_as_many_are_read():
    assert source(4).load().images.reshape(-1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("of", [lambda found: found, lambda found: of_classes(found, ("bee",))], ids=["all", "a class"])
@pytest.mark.parametrize(("images", "message"), [
    (3, "pets: 3 images for 4 labels; fetch it again"), (5, "pets: at least 5 images for 4 labels; fetch it again")])
def test_fewer_or_more_are_refused(of, images, message):
    with pytest.raises(DataError, match=message):
        of(source(images)).load()
