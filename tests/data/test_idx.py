"""IDX: what is written is read, and every damaged or inconsistent file is refused by name."""

import gzip
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from nfk.data import idx
from nfk.data.digest import digest
from nfk.data.image_set import DataError
from nfk.data.read import open_source, read


def write_set(write_idx, images, labels, suffix=""):
    """A train pair of all but the last two images, and a t10k pair of those."""
    return [write_idx(f"{name}-ubyte{suffix}", array) for name, array in (
        ("train-images-idx3", images[:-2, ..., 0]), ("train-labels-idx1", labels[:-2]),
        ("t10k-images-idx3", images[-2:, ..., 0]), ("t10k-labels-idx1", labels[-2:]))]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_folder_of_two_parts(tmp_path, pixels, write_idx, suffix):
    images, labels, reports = pixels(7), [0, 1, 2, 2, 1, 0, 2], []
    files = write_set(write_idx, images, labels, suffix)
    (tmp_path / "README.md").write_text("not data")
    (tmp_path / "._train-images-idx3-ubyte").write_text("left by a file manager")
    found = read(str(tmp_path), lambda done, total: reports.append((done, total)))
    np.testing.assert_array_equal(found.images, images)
    assert found.labels.tolist() == labels
    assert found.test_from == 5
    assert found.class_names == ("0", "1", "2")
    assert found.source == f"IDX files of {tmp_path.name}"
    assert found.digest == digest(files)
    assert reports == [(5, 7), (7, 7)]


def test_dots_for_hyphens_and_no_part_in_the_names(tmp_path, pixels, write_idx):
    images = pixels(3)
    write_idx("images.idx3-ubyte", images[..., 0])
    write_idx("labels.idx1-ubyte", [2, 0, 1])
    found = read(str(tmp_path))
    np.testing.assert_array_equal(found.images, images)
    assert found.test_from is None


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_one_file_finds_the_labels_beside_it(tmp_path, pixels, write_idx, suffix):
    images = pixels(7)
    write_set(write_idx, images, [0, 1, 2, 2, 1, 0, 1], suffix)
    found = read(str(tmp_path / f"t10k-images-idx3-ubyte{suffix}"))
    np.testing.assert_array_equal(found.images, images[-2:])
    assert found.labels.tolist() == [0, 1]
    assert found.test_from is None


def test_four_axes_are_colour_images(tmp_path, pixels, write_idx):
    images = pixels(4, channels=3)
    write_idx("train-images-idx4-ubyte", images)
    write_idx("train-labels-idx1-ubyte", [0, 1, 0, 1])
    np.testing.assert_array_equal(read(str(tmp_path)).images, images)
    np.testing.assert_array_equal(read(str(tmp_path / "train-images-idx4-ubyte")).images, images)


def test_plain_files_win_over_their_gz_twins(tmp_path, pixels, write_idx):
    images = pixels(7)
    files = write_set(write_idx, images, [0] * 7)
    write_set(write_idx, images, [0] * 7, ".gz")
    found = read(str(tmp_path))
    assert len(found) == 7
    assert found.digest == digest(files)


def test_the_name_need_not_say_gz(tmp_path, pixels, write_idx):
    images = pixels(3)
    write_idx("train-images-idx3-ubyte.gz", images[..., 0]).rename(tmp_path / "train-images-idx3-ubyte")
    write_idx("train-labels-idx1-ubyte", [0, 0, 0])
    np.testing.assert_array_equal(read(str(tmp_path)).images, images)


def test_large_files_are_read_in_pieces_and_progress_follows(monkeypatch, tmp_path, pixels, write_idx):
    monkeypatch.setattr(idx, "_AT_ONCE", 60)  # two of the images of 30 bytes
    images, reports = pixels(7), []
    write_set(write_idx, images, [0] * 7, ".gz")
    found = read(str(tmp_path), lambda done, total: reports.append((done, total)))
    np.testing.assert_array_equal(found.images, images)
    assert reports == [(2, 7), (4, 7), (5, 7), (7, 7)]


@settings(deadline=None)
@given(data=st.data())
def test_any_array_survives(tmp_path_factory, data):
    shape = data.draw(array_shapes(min_dims=3, max_dims=3, max_side=6))
    images = data.draw(arrays(np.uint8, shape))
    labels = data.draw(arrays(np.uint8, shape[0]))
    folder = tmp_path_factory.mktemp("any")
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        (folder / name).write_bytes(header + array.tobytes())
    found = read(str(folder))
    np.testing.assert_array_equal(found.images[..., 0], images)
    np.testing.assert_array_equal(found.labels, labels)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_every_truncation_is_refused(tmp_path, pixels, write_idx, suffix):
    write_set(write_idx, pixels(7), [0] * 7, suffix)
    for name in ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        file = tmp_path / f"{name}{suffix}"
        content = file.read_bytes()
        for length in range(len(content)):
            file.write_bytes(content[:length])
            with pytest.raises(DataError, match=f"{name}.*fetch the file again") as refusal:
                read(str(tmp_path))
            assert "\n" not in str(refusal.value)
        file.write_bytes(content)
    assert len(read(str(tmp_path))) == 7


def test_damage_within_gzip_is_refused(tmp_path, pixels, write_idx):
    write_set(write_idx, pixels(40), [0] * 40, ".gz")
    file = tmp_path / "train-images-idx3-ubyte.gz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: truncated or damaged"):
        read(str(tmp_path))


def test_bytes_after_the_last_image_are_refused(tmp_path, pixels, write_idx):
    file, *_ = write_set(write_idx, pixels(7), [0] * 7)
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(DataError, match="train-images-idx3-ubyte: goes on after the 150 bytes"):
        read(str(tmp_path))


def test_a_wrong_magic_number_is_refused(tmp_path, pixels, write_idx):
    file, *_ = write_set(write_idx, pixels(7), [0] * 7)
    file.write_bytes(b"\0\0\x0d\x03" + file.read_bytes()[4:])
    with pytest.raises(DataError, match="ubyte: magic number 0x00000d03 is not that of IDX images"):
        read(str(tmp_path))


def test_a_header_of_terabytes_is_refused_before_anything_is_read(tmp_path, write_idx):
    header = struct.pack(">4I", 0x0803, 2**20, 2**15, 2**15)
    (tmp_path / "images-idx3-ubyte.gz").write_bytes(gzip.compress(header))
    write_idx("labels-idx1-ubyte.gz", np.zeros(2**20))
    with pytest.raises(DataError, match=r"images-idx3-ubyte.gz: its headers announce 1048576 × 32768 × 32768 "
                                        r"× 1 bytes = 1,048,576\.0 GiB .*; use fewer or smaller images"):
        read(str(tmp_path))


def test_a_row_of_more_bytes_than_can_be_asked_for_is_refused(tmp_path, write_idx):
    (tmp_path / "images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x0803, 1, 2**32 - 1, 2**32 - 1))
    write_idx("labels-idx1-ubyte", [0])
    message = f"images-idx3-ubyte: no memory for rows of {(2**32 - 1)**2:,} bytes, as its header announces them; fetch"
    with pytest.raises(DataError, match=message):
        next(open_source(str(tmp_path)).blocks())


TRAIN = {"train-images-idx3-ubyte": np.zeros((3, 2, 2)), "train-labels-idx1-ubyte": [0, 1, 0]}


@pytest.mark.parametrize(("files", "message"), [
    ({**TRAIN, "train-labels-idx1-ubyte": [0, 0]},
     "train-labels-idx1-ubyte: 2 labels for the 3 images of train-images-idx3-ubyte; use files of"),
    ({"train-images-idx3-ubyte": np.zeros((3, 2, 2))},
     "train part must be one images file and one labels file, found train-images-idx3-ubyte; add"),
    ({**TRAIN, "t10k-images-idx3-ubyte": np.zeros((1, 2, 2))},
     "test part must be .* found t10k-images-idx3-ubyte"),
    ({"a-images-idx3": np.zeros((3, 2, 2)), "a-labels-idx1": [0] * 3,
      "b-images-idx3": np.zeros((3, 2, 2)), "b-labels-idx1": [0] * 3}, "point data.source at one images"),
    ({"images-idx3": np.zeros((0, 2, 2)), "labels-idx1": []}, "images-idx3: holds no images"),
    ({"images-idx3": np.zeros((3, 0, 2)), "labels-idx1": [0] * 3}, "images-idx3: images of 0 × 2"),
    ({"images-idx4": np.zeros((3, 2, 2, 4)), "labels-idx1": [0] * 3},
     "images of 2 × 2 with 4 channels; there must be pixels, and 1 or 3 channels"),
    ({**TRAIN, "t10k-images-idx3-ubyte": np.zeros((2, 2, 2)), "t10k-labels-idx1-ubyte": [1, 7]},
     "t10k-labels-idx1-ubyte: row 1: label 7 is outside the classes 0 to 1; correct the label"),
    ({**TRAIN, "t10k-images-idx3-ubyte": np.zeros((2, 2, 3)), "t10k-labels-idx1-ubyte": [1, 1]},
     r"t10k-images-idx3-ubyte: images of shape \(2, 3, 1\), those of train-images-idx3-ubyte have \(2, 2"),
    ({**TRAIN, "test-images-idx3-ubyte": np.zeros((2, 2, 2)), "test-labels-idx1-ubyte": [1, 1],
      "extra-images-idx3-ubyte": np.zeros((2, 2, 2))}, "extra-images-idx3-ubyte: its name says neither"),
])
def test_inconsistent_folders_are_refused(tmp_path, write_idx, files, message):
    for name, array in files.items():
        write_idx(name, array)
    with pytest.raises(DataError, match=message):
        read(str(tmp_path))


@pytest.mark.parametrize(("files", "source", "message"), [
    ({"train-labels-idx1-ubyte": [0]}, "train-labels-idx1-ubyte", "holds labels, not images; point"),
    ({"train-images-idx3-ubyte": np.zeros((1, 2, 2))}, "train-images-idx3-ubyte",
     r"its labels file train-labels-idx1-ubyte\[.gz\] is not beside it"),
    ({"digits-idx3": np.zeros((1, 2, 2))}, "digits-idx3", "no 'images' in its name"),
    ({"images": np.zeros((1, 2, 2)), "labels": np.zeros((1, 2, 2))}, "images",
     "labels: holds images where labels were expected"),
])
def test_a_file_without_its_labels_is_refused(tmp_path, write_idx, files, source, message):
    for name, array in files.items():
        write_idx(name, array)
    with pytest.raises(DataError, match=message):
        read(str(tmp_path / source))
