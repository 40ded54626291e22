"""Embeddings that are scaled as they are read from their file: what cannot be held is told by its own example."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from nfk.checkpoint import RowFile
from nfk.fisher.embedding import scale
from nfk.fisher.scores import ScoreError
from nfk.stages.embed import _Scaled


def test_an_example_is_named_by_its_place_among_all_of_them():
    file = RowFile(2, np.float32)
    file.write(0, np.array([[1, 1], [2, 2], [3, 3], [1e37, 1e37]], np.float32))
    rows = _Scaled(file, 4, partial(scale, scaling="whitened", singular_values=np.array([1.0, 1e-3]), fitted=4), 100)
    assert rows[0:2] == pytest.approx(np.array([[2, 2000], [4, 4000]], np.float32))
    with pytest.raises(ScoreError, match="example 103: its score is so long"):
        rows[2:4]
