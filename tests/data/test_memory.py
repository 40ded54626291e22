"""Room for images: what is too much is refused in one line, before any of it is taken."""

from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from nfk.data.image_set import DataError
from nfk.data.memory import check_room, empty_images


@pytest.fixture
def available(monkeypatch):
    """available(count): bytes of memory that the machine is made to have."""
    return lambda count: monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=count))


def test_images_that_just_fit_are_given_room(available):
    available(2 * 3 * 4)
    found = empty_images((2, 3, 4, 1), "set.npz")
    assert (found.shape, found.dtype) == ((2, 3, 4, 1), np.uint8)


@pytest.mark.parametrize(("there_are", "said"), [
    ((1 << 50) - 1, "1,048,576.0"),
    (1 << 60, "1,073,741,824.0"),  # enough, but more than any process can address
])
def test_images_without_room_are_refused(available, there_are, said):
    available(there_are)
    with pytest.raises(DataError, match="^set.npz: its headers announce 1048576 × 1048576 × 1024 × 1 bytes = "
                                        f"1,048,576.0 GiB of images, {said} GiB of memory are available; use fewer or "
                                        "smaller images, or check that the file is whole$"):
        empty_images((1 << 20, 1 << 20, 1 << 10, 1), "set.npz")


def test_a_header_may_announce_what_there_is_and_no_more(available):
    available(1 << 30)
    check_room(1 << 30, "set.npz: key 'y'", "split the file")
    with pytest.raises(DataError, match=r"^set.npz: key 'y' needs 1.5 GiB of memory by its header, 1.0 GiB are "
                                        "available; split the file, or check that the file is whole$"):
        check_room(3 << 29, "set.npz: key 'y'", "split the file")
