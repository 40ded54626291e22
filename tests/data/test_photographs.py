"""Pieces of the photographs that scikit-learn ships."""

import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from nfk.data.photographs import pieces


@pytest.mark.parametrize("shape, count", [((28, 28, 1), 2 * 15 * 22), ((100, 64, 3), 2 * 4 * 10)])
def test_pieces_tile_the_photographs(shape, count):
    found = pieces(shape)
    assert found.shape == (count, *shape) and found.dtype == np.uint8
    china = load_sample_image("china.jpg").astype(float)
    height, width, channels = shape
    expected = china[:height, width : 2 * width]  # the second piece is right of the first
    if channels == 1:
        expected = expected @ [[0.299], [0.587], [0.114]]
    np.testing.assert_allclose(found[1], expected, atol=1)
    assert len(np.unique(found.reshape(count, -1), axis=0)) > 0.9 * count
