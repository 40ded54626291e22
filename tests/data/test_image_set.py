"""ImageSet refuses what is no image set."""

import jaxtyping
import numpy as np
import pytest

from nfk.data.image_set import DataError, ImageSet


def image_set(images=None, labels=(0, 1, 1), class_names=("a", "b"), test_from=None):
    images = np.zeros((3, 4, 5, 1), np.uint8) if images is None else images
    return ImageSet(images, np.asarray(labels, np.int32), class_names, "made here", "0" * 64, test_from)


@pytest.fixture
def unchecked_types(monkeypatch):
    """As users run it: the suite's run-time check of annotations would refuse first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def test_a_whole_set_is_kept_as_given():
    whole = image_set(test_from=2)
    assert len(whole) == 3
    assert whole.images.shape == (3, 4, 5, 1)
    assert whole.test_from == 2


@pytest.mark.parametrize(("wrong", "message"), [
    ({"images": np.zeros((3, 4, 5, 1), np.float32)}, r"float32 of shape \(3, 4, 5, 1\); must be uint8"),
    ({"images": np.zeros((3, 4, 5), np.uint8)}, r"uint8 of shape \(3, 4, 5\); must be .* \(n, h, w, c\)"),
    ({"images": np.zeros((0, 4, 5, 1), np.uint8), "labels": ()}, "at least one image"),
    ({"images": np.zeros((3, 4, 0, 1), np.uint8)}, "at least one pixel"),
    ({"images": np.zeros((3, 4, 5, 2), np.uint8)}, "1 or 3 channels"),
    ({"labels": (0, 1)}, r"labels: int32 of shape \(2,\); must be int32 of shape \(3,\)"),
    ({"labels": (0, 1, 2)}, "labels: from 0 to 2; must be at least 0 and below 2"),
    ({"labels": (0, -1, 1)}, "labels: from -1 to 1"),
    ({"test_from": 0}, "test_from=0: must be above 0 and below 3"),
    ({"test_from": 3}, "test_from=3"),
])
def test_faults_are_refused_with_value_and_bound(unchecked_types, wrong, message):
    with pytest.raises(DataError, match=message):
        image_set(**wrong)


def test_labels_of_another_type_are_refused(unchecked_types):
    with pytest.raises(DataError, match=r"labels: int64 of shape \(3,\); must be int32"):
        ImageSet(np.zeros((3, 4, 5, 1), np.uint8), np.zeros(3, np.int64), ("a",), "made here", "0" * 64)
