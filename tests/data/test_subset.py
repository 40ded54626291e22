"""Some classes of a set: their images, numbered as asked, whatever the order in which blocks come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nfk.data.image_set import DataError
from nfk.data.source import Block, Source
from nfk.data.split import split
from nfk.data.subset import of_classes

IMAGES = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
LABELS = np.array([0, 1, 2, 2, 1, 0, 0, 1, 2, 1], np.int32)


def source(test_from=6):
    def blocks():
        for rows in ([7, 0, 3], [9, 1], [8, 5], [2, 4, 6]):
            yield Block(np.array(rows), IMAGES[rows])

    return Source(Path("pets"), (1, 1, 1), LABELS, ("ant", "bee", "cow"), "pets", "0" * 64, test_from, blocks)


@pytest.mark.parametrize("test_from, boundary", [(6, 4), (None, None)])
def test_rows_labels_and_parts_are_those_of_the_classes(test_from, boundary):
    found = of_classes(source(test_from), ("cow", "ant")).load()
    assert found.images.reshape(-1).tolist() == [0, 2, 3, 5, 6, 8]
    assert found.labels.tolist() == [1, 0, 0, 1, 1, 0]
    assert found.class_names == ("cow", "ant")
    assert found.test_from == boundary


def test_blocks_without_the_classes_are_passed_over():
    found = of_classes(source(), ("ant",))
    assert [block.rows.tolist() for block in found.blocks()] == [[0], [1], [2]]


def test_it_splits_like_any_source():
    rows = split(of_classes(source(), ("bee", "ant")), train=2, validation=2, test=2, seed=0)
    assert sorted([*rows.train, *rows.validation]) == [0, 1, 2, 3]
    assert set(rows.test) <= {4, 5, 6}


@pytest.mark.parametrize("names, message", [
    (("cow", "aunt"), r"data\.classes: no class 'aunt' in pets, did you mean 'ant'\?; there are ant, bee, cow"),
    (("cow", "cow"), "names a class twice"),
])
def test_other_names_are_refused(names, message):
    with pytest.raises(DataError, match=message):
        of_classes(source(), names)
