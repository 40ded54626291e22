"""The laws of a split: disjoint, stratified, fixed by the seed, fair in every prefix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfk.data.image_set import DataError, ImageSet
from nfk.data.split import split


def image_set(labels, test_from=None):
    labels = np.asarray(labels, np.int32)
    class_names = tuple(map(str, range(labels.max() + 1)))
    return ImageSet(np.zeros((len(labels), 1, 1, 1), np.uint8), labels, class_names, "made here", "0" * 64,
                    test_from)


@st.composite
def requests(draw):
    """Labels in random order, perhaps with a test part, and sizes that can be met."""
    per_class = draw(st.lists(st.integers(3, 40), min_size=1, max_size=8))
    order = np.random.default_rng(draw(st.integers(0, 2**31 - 1)))
    labels = order.permutation(np.repeat(np.arange(len(per_class)), per_class))
    boundary = draw(st.none() | st.integers(2, len(labels) - 1))
    if boundary is None:
        test = draw(st.integers(1, len(labels) - 2))
        validation = draw(st.integers(1, len(labels) - test - 1))
        train = draw(st.integers(1, len(labels) - test - validation))
    else:
        test = draw(st.integers(1, len(labels) - boundary))
        validation = draw(st.integers(1, boundary - 1))
        train = draw(st.integers(1, boundary - validation))
    return labels, boundary, {"train": train, "validation": validation, "test": test}


def shares(counts, size):
    """Each class's exact share of `size`, out of `counts`."""
    return np.asarray(counts) * size / np.sum(counts)


@settings(deadline=None)
@given(request=requests(), seed=st.integers(0, 2**31 - 1))
def test_sizes_are_met_rows_are_disjoint_and_parts_respected(request, seed):
    labels, boundary, sizes = request
    images = image_set(labels, boundary)
    found = split(images, **sizes, seed=seed)
    for key, size in sizes.items():
        assert len(getattr(found, key)) == size
    rows = np.concatenate([found.train, found.validation, found.test])
    assert len(np.unique(rows)) == len(rows)
    assert rows.min() >= 0 and rows.max() < len(images)
    if images.test_from is not None:
        assert found.test.min() >= images.test_from
        assert max(found.train.max(), found.validation.max()) < images.test_from


@settings(deadline=None)
@given(request=requests(), seed=st.integers(0, 2**31 - 1))
def test_every_cut_rounds_every_class_share_up_or_down(request, seed):
    labels, boundary, sizes = request
    images = image_set(labels, boundary)
    found = split(images, **sizes, seed=seed)
    classes = len(images.class_names)
    train, validation, test = (np.bincount(images.labels[rows], minlength=classes)
                               for rows in (found.train, found.validation, found.test))
    if images.test_from is None:
        pool, used = images.labels, train + validation + test
        assert np.abs(test - shares(used, sizes["test"])).max() < 1
    else:
        pool, used = images.labels[:images.test_from], train + validation
        test_pool = np.bincount(images.labels[images.test_from:], minlength=classes)
        assert np.abs(test - shares(test_pool, sizes["test"])).max() < 1
    assert np.abs(used - shares(np.bincount(pool, minlength=classes), used.sum())).max() < 1
    assert np.abs(validation - shares(train + validation, sizes["validation"])).max() < 1
    assert np.abs(train - shares(train + validation, sizes["train"])).max() < 1


@settings(deadline=None)
@given(classes=st.integers(1, 10), each=st.integers(3, 30), data=st.data())
def test_equally_large_classes_differ_by_at_most_one_image(classes, each, data):
    images = image_set(np.tile(np.arange(classes), each))
    test = data.draw(st.integers(1, len(images) - 2))
    validation = data.draw(st.integers(1, len(images) - test - 1))
    train = data.draw(st.integers(1, len(images) - test - validation))
    found = split(images, train=train, validation=validation, test=test, seed=data.draw(st.integers(0, 99)))
    for rows in (found.train, found.validation, found.test):
        assert np.ptp(np.bincount(images.labels[rows], minlength=classes)) <= 1


@settings(max_examples=40, deadline=None)
@given(request=requests(), seed=st.integers(0, 2**31 - 1))
def test_every_prefix_is_a_fair_sample(request, seed):
    labels, boundary, sizes = request
    images = image_set(labels, boundary)
    found = split(images, **sizes, seed=seed)
    classes = len(images.class_names)
    for rows in (found.train, found.validation, found.test):
        one_hot = np.eye(classes)[images.labels[rows]]
        share = one_hot.mean(axis=0)
        first = np.arange(1, len(rows) + 1)[:, None]
        assert (np.abs(np.cumsum(one_hot, axis=0) - first * share) <= 1 + classes * share + 1e-9).all()


def test_within_a_class_prefixes_are_drawn_at_random():
    """Over many seeds every row is equally often in train, and equally often in its first half."""
    images = image_set(np.repeat(np.arange(4), 10))
    seeds = 2000
    kept, early = np.zeros(40), np.zeros(40)
    for seed in range(seeds):
        found = split(images, train=20, validation=8, test=12, seed=seed)
        kept[found.train] += 1
        early[found.train[:10]] += 1
    # binomial standard deviations: sqrt(2000 / 4) = 22, sqrt(2000 * 3 / 16) = 19
    assert np.abs(kept - seeds / 2).max() < 5 * 22.4
    assert np.abs(early - seeds / 4).max() < 5 * 19.4


def test_the_seed_alone_fixes_the_order():
    images = image_set(np.arange(300) % 7)
    sizes = {"train": 120, "validation": 30, "test": 60}
    first, again, other = (split(images, **sizes, seed=seed) for seed in (3, 3, 4))
    for key in sizes:
        np.testing.assert_array_equal(getattr(first, key), getattr(again, key))
        assert not np.array_equal(getattr(first, key), getattr(other, key))


def test_the_rows_of_a_seed_never_change():
    """Prescribed: a release that moves these rows silently changes every data set made before it."""
    found = split(image_set(np.arange(30) % 3), train=6, validation=3, test=3, seed=0)
    assert found.train.tolist() == [15, 19, 17, 25, 2, 18]
    assert found.validation.tolist() == [20, 21, 1]
    assert found.test.tolist() == [3, 11, 13]


def test_with_a_test_part_the_test_rows_do_not_depend_on_the_other_sizes():
    images = image_set(np.arange(300) % 7, test_from=200)
    small = split(images, train=20, validation=10, test=50, seed=1)
    large = split(images, train=120, validation=30, test=50, seed=1)
    np.testing.assert_array_equal(small.test, large.test)


@pytest.mark.parametrize(("sizes", "test_from", "message"), [
    ({"train": 25, "validation": 3, "test": 3}, None,
     r"data.train=25 \+ data.validation=3 \+ data.test=3 = 31 exceeds the 30 images of made here"),
    ({"train": 19, "validation": 2, "test": 3}, 20,
     r"data.train=19 \+ data.validation=2 = 21 exceeds the 20 images in the train part of made here"),
    ({"train": 9, "validation": 2, "test": 11}, 20,
     "data.test=11 exceeds the 10 images in the test part of made here; ask for fewer in params.yaml"),
    ({"train": 0, "validation": 2, "test": 1}, None, "data.train=0 must be at least 1; raise it in"),
    ({"train": 1, "validation": 2, "test": -1}, 20, "data.test=-1 must be at least 1"),
])
def test_what_cannot_be_met_is_refused(sizes, test_from, message):
    with pytest.raises(DataError, match=message):
        split(image_set(np.arange(30) % 3, test_from), **sizes, seed=0)
