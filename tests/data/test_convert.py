"""`nfk data --from PATH --to OUT.zarr`: the whole source in its order, or one line and nothing."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nfk as nfk_package
from nfk import store
from nfk.data.decode import Wanted
from nfk.data.image_set import DataError
from nfk.stages.data import convert


def nfk(*arguments, cwd):
    return subprocess.run([sys.executable, "-m", "nfk", "data", *arguments], cwd=cwd, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(Path(nfk_package.__file__).parents[1])})


@pytest.fixture
def source(tmp_path, pixels):
    images, labels = pixels(9, channels=3), np.asarray([0, 1, 2] * 3)
    np.savez(tmp_path / "set.npz", x_train=images[:6], y_train=labels[:6], x_test=images[6:], y_test=labels[6:])
    return tmp_path / "set.npz", images, labels


def test_the_whole_source_in_its_order(tmp_path, source):
    file, images, labels = source
    assert convert(str(file), tmp_path / "out.zarr", Wanted()).startswith("9 images of 6 x 5 x 3 in 3 classes -> ")
    found = store.read(tmp_path / "out.zarr")
    np.testing.assert_array_equal(found["images"][:], images)
    np.testing.assert_array_equal(found["labels"][:], labels)
    assert found["source_row"][:].tolist() == list(range(9))
    assert found["split"][:].tolist() == [0] * 6 + [2] * 3
    assert found.attributes["splits"] == {"train": [0, 6], "validation": [6, 6], "test": [6, 9]}


def test_by_the_command_line_with_resize_and_progress(tmp_path, source):
    done = nfk("--from", "set.npz", "--to", "out.zarr", "--resize", "3", "4", "--channels", "grey", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "9 images of 3 x 4 x 1 in 3 classes -> out.zarr\n")
    assert "data: reading: 9 of 9 images" in done.stderr
    assert store.read(tmp_path / "out.zarr")["images"].shape == (9, 3, 4, 1)


def test_a_fault_is_one_line_and_leaves_nothing(tmp_path, source):
    labels = np.asarray([0, -1])
    np.savez(tmp_path / "set.npz", images=np.zeros((2, 4, 4), np.uint8), labels=labels)
    done = nfk("--from", "set.npz", "--to", "out.zarr", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == ("nfk: set.npz: key 'labels': row 1: label -1 is outside the classes 0 to 0; "
                           "correct the label or drop the row\n")
    assert [file.name for file in tmp_path.iterdir()] == ["set.npz"]


def test_a_fault_found_while_writing_leaves_the_former_store(tmp_path, pixels, source, write_parquet):
    convert(str(source[0]), tmp_path / "out.zarr", Wanted())
    before = store.read(tmp_path / "out.zarr").digest
    file = write_parquet("train.parquet", [*pixels(3), b"no image"], [0] * 4)
    with pytest.raises(DataError, match=f"^{file}: row 3: is no PNG, JPEG, WEBP or BMP image; convert it or drop it"):
        convert(str(file), tmp_path / "out.zarr", Wanted())
    assert store.read(tmp_path / "out.zarr").digest == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out.zarr", "set.npz", "train.parquet"]


@pytest.mark.parametrize(("to", "message"), [
    ("out", r"--to .*out: must end in .zarr; rename it"), ("mine.zarr", "mine.zarr: is there and is no store; give"),
])
def test_what_is_no_store_is_left_alone(tmp_path, source, to, message):
    (tmp_path / "mine.zarr").mkdir()
    (tmp_path / "mine.zarr/keep").write_text("mine")
    with pytest.raises(DataError, match=message):
        convert(str(source[0]), tmp_path / to, Wanted())
    assert (tmp_path / "mine.zarr/keep").read_text() == "mine"
