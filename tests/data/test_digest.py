"""The digest names exact bytes, and can be made again with a system tool."""

import shutil
import subprocess

import pytest

from nfk.data.digest import digest


@pytest.fixture
def files(tmp_path):
    (tmp_path / "train.bin").write_bytes(b"first")
    (tmp_path / "test.bin").write_bytes(b"second")
    return [tmp_path / "train.bin", tmp_path / "test.bin"]


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_is_what_sha256sum_prints_of_its_own_listing(files):
    listing = subprocess.run(["sha256sum", "train.bin", "test.bin"], cwd=files[0].parent, capture_output=True,
                             check=True).stdout
    printed = subprocess.run(["sha256sum"], input=listing, capture_output=True, check=True).stdout.decode()
    assert printed.split()[0] == digest(files)


def test_changes_with_a_byte_an_order_a_name_and_a_boundary(files):
    before = digest(files)
    assert digest(files) == before
    assert digest(files[::-1]) != before
    renamed = files[0].rename(files[0].with_name("other.bin"))
    assert digest([renamed, files[1]]) != before
    renamed.rename(files[0])
    assert digest(files) == before
    files[0].write_bytes(b"firsts")
    files[1].write_bytes(b"econd")
    assert digest(files) != before
    files[0].write_bytes(b"firsT")
    files[1].write_bytes(b"second")
    assert digest(files) != before
