"""Rows in another order through a file: the rows asked for, each once, in blocks of the size asked for."""

import os
import shutil
from collections import namedtuple

import numpy as np
import pytest

from nfk.data import reorder
from nfk.data.image_set import DataError
from nfk.data.reorder import in_order
from nfk.data.source import Block, Source


def source(images, cuts, shuffled=False):
    """A source of `images`, its blocks cut at `cuts`; with `shuffled` its rows come in any order."""
    rows = np.random.default_rng(3).permutation(len(images)) if shuffled else np.arange(len(images))

    def blocks():
        for some in np.split(rows, cuts):
            yield Block(some, images[some])
    return Source("made here", images.shape[1:], np.zeros(len(images), np.int32), ("a",), "made here", "0" * 64, None,
                  blocks)


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_any_rows_in_any_order(tmp_path, pixels, seed, shuffled):
    rng = np.random.default_rng(seed)
    images, reports = pixels(50), []
    order = rng.permutation(50)[:rng.integers(1, 51)]
    blocks = list(in_order(source(images, [7, 8, 30], shuffled), order, 9, tmp_path,
                           lambda done, total: reports.append((done, total))))
    np.testing.assert_array_equal(np.concatenate(blocks), images[order])
    assert {len(block) for block in blocks[:-1]} <= {9}
    assert reports == [(7, 50), (8, 50), (30, 50), (50, 50)]
    assert list(tmp_path.iterdir()) == []


def test_stretches_of_rows_keep_their_first(tmp_path, pixels):
    images = pixels(10)
    for order in (np.arange(10), np.arange(3, 7), np.asarray([4, 5, 6, 1, 2, 9])):
        found = np.concatenate(list(in_order(source(images, [5]), order, 100, tmp_path)))
        np.testing.assert_array_equal(found, images[order])


def test_more_than_the_disk_has_is_refused_before_anything_is_read(monkeypatch, tmp_path, pixels):
    usage = namedtuple("usage", "total used free")(0, 0, 300)
    monkeypatch.setattr(reorder.shutil, "disk_usage", lambda folder: usage)
    assert shutil.disk_usage(tmp_path).free == 300
    made = source(pixels(11), [5])
    with pytest.raises(DataError, match=r"^made here: 11 images of 6 × 5 × 1 need 0.0 GiB beside their store, 0.0 GiB"):
        next(in_order(made, np.arange(11), 9, tmp_path))
    assert len(next(in_order(made, np.arange(10), 9, tmp_path))) == 9


def test_images_that_are_lost_from_the_file_are_missed(monkeypatch, tmp_path, pixels):
    files, nameless = [], reorder.durable.nameless
    monkeypatch.setattr(reorder.durable, "nameless", lambda folder: files.append(nameless(folder)) or files[0])
    blocks = in_order(source(pixels(10), [5]), np.arange(10), 4, tmp_path)
    next(blocks)
    os.truncate(files[0].handle, 7 * 30)
    with pytest.raises(DataError, match=f"^made here: only some of its images could be kept in {tmp_path}; run again$"):
        next(blocks)
