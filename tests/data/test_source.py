"""As many images as labels: a source that has others was damaged, and is not read in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nfk.data.image_set import DataError
from nfk.data.source import Source, consecutive
from nfk.data.subset import of_classes


def source(images: int) -> Source:
    """Four labels, and so many images."""
    return Source(Path("pets"), (1, 1, 1), np.array([0, 1, 1, 0], np.int32), ("ant", "bee"), "pets", "0" * 64, None,
                  lambda: consecutive(iter(np.split(np.arange(images, dtype=np.uint8).reshape(-1, 1, 1, 1), [2]))))


def test_as_many_are_read():
    assert source(4).load().images.reshape(-1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("of", [lambda found: found, lambda found: of_classes(found, ("bee",))], ids=["all", "a class"])
@pytest.mark.parametrize(("images", "message"), [
    (3, "pets: 3 images for 4 labels; fetch it again"), (5, "pets: at least 5 images for 4 labels; fetch it again")])
def test_fewer_or_more_are_refused(of, images, message):
    with pytest.raises(DataError, match=message):
        of(source(images)).load()
