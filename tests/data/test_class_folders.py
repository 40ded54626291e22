"""A folder a class, on disk or in an archive: one set of rows, and each fault refused by name."""

import errno
import gzip
import io
import os
import re
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nfk.data import class_folders
from nfk.data.decode import Wanted
from nfk.data.image_set import DataError
from nfk.data.read import read


@pytest.fixture
def write_folders(tmp_path, encoded):
    """write_folders({"cat/1.png": pixels or bytes}): those files below tmp_path/pets."""
    def write(files):
        for name, content in files.items():
            file = tmp_path / "pets" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encoded(content) if isinstance(content, np.ndarray) else content)
        return tmp_path / "pets"
    return write


def packed(folder, kind):
    return shutil.make_archive(str(folder.parent / "packed"), kind, folder.parent, folder.name)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "gztar"])
def test_folders_and_their_archives_are_one_set(pixels, write_folders, kind):
    images = pixels(5, channels=3)
    names = ["train/cat/1.png", "train/cat/2.png", "train/dog/1.png", "test/cat/9.png", "test/dog/8.png"]
    folder = write_folders({**dict(zip(names, images, strict=True)), "README": b"not data", ".hidden/cat/1.png": b""})
    found = read(str(folder if kind == "folder" else packed(folder, kind)))
    np.testing.assert_array_equal(found.images, images)
    assert found.labels.tolist() == [0, 0, 1, 0, 1]
    assert found.class_names == ("cat", "dog")
    assert found.test_from == 3


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_images_in_no_folder_have_no_classes(pixels, write_folders, kind):
    images = pixels(3)
    folder = write_folders({"b.png": images[1], "a.png": images[0], "c.png": images[2], "notes.csv": b"not data"})
    if kind != "folder":
        folder = Path(shutil.make_archive(str(folder.parent / "packed"), kind, folder))
    found = read(str(folder))
    np.testing.assert_array_equal(found.images, images)
    assert (found.class_names, found.labels.tolist()) == (("unlabelled",), [0, 0, 0])


def test_rows_do_not_depend_on_the_order_in_the_archive(tmp_path, pixels, encoded):
    images = pixels(4)
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for place in (2, 0, 3, 1):
            content = encoded(images[place])
            header = tarfile.TarInfo(f"./{'ab'[place // 2]}/{place}.png")
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    found = read(str(tmp_path / "set.tar"))
    np.testing.assert_array_equal(found.images, images)
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.test_from is None


def test_the_digest_knows_each_file_and_its_class(pixels, write_folders):
    folder = write_folders({"cat/1.png": pixels(1)[0], "dog/2.png": pixels(2)[1]})
    before = read(str(folder)).digest
    assert read(str(folder)).digest == before
    (folder / "dog/2.png").rename(folder / "cat/2.png")
    shutil.copy(folder / "cat/1.png", folder / "dog/1.png")
    (folder / "cat/1.png").unlink()
    assert read(str(folder)).digest != before


@pytest.mark.parametrize(("files", "message"), [
    ({"cat/2.png": b"no image"}, "cat/2.png: is no PNG, JPEG, WEBP or BMP image; convert it or drop it"),
    ({"cat/2.png": np.zeros((6, 7, 1), np.uint8)}, "cat/2.png: is 6 × 7 × 1, the first image is 6 × 5 × 1"),
    ({"cat/2.png": np.zeros((6, 5, 3), np.uint8)}, "cat/2.png: is 6 × 5 × 3, the first image is 6 × 5 × 1"),
    ({"2.png": np.zeros((6, 5, 1), np.uint8)}, "2.png: lies neither in CLASS/ like all others nor in train/CLASS/"),
    ({"a/b/2.png": np.zeros((6, 5, 1), np.uint8)}, "a/b/2.png: lies neither|cat/1.png: lies neither"),
])
def test_faults_are_named_by_file(pixels, write_folders, files, message):
    folder = write_folders({"cat/1.png": pixels(1)[0], "dog/1.png": pixels(1)[0], **files})
    for source in (folder, packed(folder, "gztar")):
        with pytest.raises(DataError, match=message) as refusal:
            read(str(source))
        assert str(refusal.value).startswith(str(source))
        assert "\n" not in str(refusal.value)


def test_a_class_of_the_test_part_alone_is_refused(pixels, write_folders):
    folder = write_folders({"train/cat/1.png": pixels(1)[0], "test/dog/1.png": pixels(1)[0]})
    with pytest.raises(DataError, match=r"test/dog/1.png: class 'dog' is not in the train part; add it there"):
        read(str(folder))


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_a_class_folder_without_images_is_refused(pixels, write_folders, kind):
    folder = write_folders({"cat/1.png": pixels(1)[0]})
    (folder / "dog").mkdir()
    with pytest.raises(DataError, match="dog: a class folder without images; fill or remove it"):
        read(str(folder if kind == "folder" else packed(folder, kind)))


def test_a_linked_class_folder_is_named_a_link(pixels, write_folders):
    folder = write_folders({"cat/1.png": pixels(1)[0]})
    (folder / "cow").symlink_to(folder / "cat")
    with pytest.raises(DataError, match="cow: is a link; put the folder itself there"):
        read(str(folder))


def test_a_class_folder_that_cannot_be_listed_is_named(monkeypatch, pixels, write_folders):
    folder, scandir = write_folders({"cat/1.png": pixels(1)[0], "dog/1.png": pixels(1)[0]}), os.scandir

    def deny(path):
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    with pytest.raises(DataError, match=f"^{folder}/dog: cannot be read \\(Permission denied\\); check its perm"):
        read(str(folder))


@pytest.mark.parametrize(("bound", "value", "count", "read_at"), [
    ("_BLOCK_IMAGES", 2, 5, [2, 4, 5]), ("_BLOCK_IMAGES", 2, 4, [2, 4]),
    ("_BLOCK_BYTES", 100, 3, [1, 2, 3])])  # room for the pixels of three, not for the files of two
def test_images_are_read_in_blocks_of_bounded_number_and_size(
        monkeypatch, pixels, encoded, write_folders, bound, value, count, read_at):
    monkeypatch.setattr(class_folders, bound, value)
    images, reports = pixels(count), []
    folder = write_folders({f"cat/{row}.png": encoded(image) + bytes(100) for row, image in enumerate(images)})
    found = read(str(folder), lambda done, total: reports.append((done, total)))
    np.testing.assert_array_equal(found.images, images)
    assert reports == [(done, count) for done in read_at]


def test_a_file_too_large_for_an_image_is_refused(monkeypatch, pixels, encoded, write_folders):
    monkeypatch.setattr(class_folders, "_LARGEST", 1 << 20)
    content = encoded(pixels(1)[0]).ljust(1 << 20, b"\0")
    assert len(read(str(write_folders({"cat/1.png": content})))) == 1
    folder = write_folders({"cat/1.png": content + b"\0"})
    with pytest.raises(DataError, match=f"^{folder}/cat/1.png: has more than 1 MiB, too many for an image; shrink it"):
        read(str(folder))


def test_files_called_train_among_images_make_no_cifar_of_them(pixels, write_folders):
    folder = write_folders({"cat/1.png": pixels(1)[0], "cat/train": b"notes"})
    with pytest.raises(DataError, match="cat/train: "):
        read(str(folder))


def test_sizes_and_channels_are_made_alike_when_asked(pixels, write_folders):
    grey, colour = pixels(1, 6, 5)[0], pixels(1, 12, 10, 3)[0]
    folder = write_folders({"cat/1.png": grey, "dog/1.png": colour})
    found = read(str(folder), wanted=Wanted(size=(3, 4), channels="grey"))
    for image, made in zip((grey[..., 0], colour), found.images, strict=True):
        expected = Image.fromarray(image).convert("L").resize((4, 3), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(made[..., 0], expected)
    assert read(str(folder), wanted=Wanted(size=(3, 4), channels="colour")).images.shape == (2, 3, 4, 3)
    with pytest.raises(DataError, match=r"dog/1.png: is 12 × 10 × 3, the first image is any × any × 1 \(height"):
        read(str(folder), wanted=Wanted(size=(3, 4)))


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)


def write_tar(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members:
            header = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))


@pytest.mark.parametrize("name", ["../cat/1.png", "/cat/1.png", "cat/../../1.png", "cat\\..\\1.png", "C:/cat/1.png"])
@pytest.mark.parametrize(("write", "file"), [(write_zip, "set.zip"), (write_tar, "set.tar.gz")])
def test_names_that_lead_out_of_the_archive_are_refused(tmp_path, write, file, name):
    write(tmp_path / file, [(name, b"")])
    message = f"^{tmp_path}/{file}: {re.escape(repr(name))}: leads out of the archive; re-make it"
    with pytest.raises(DataError, match=message):
        read(str(tmp_path / file))
    assert [each.name for each in tmp_path.iterdir()] == [file]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    header = tarfile.TarInfo("cat/1.png")
    header.type, header.linkname = kind, "/etc/passwd"
    write_tar(tmp_path / "set.tgz", [(header, b"")])
    with pytest.raises(DataError, match=r"set.tgz: cat/1.png: is a link or no file; put the image itself there"):
        read(str(tmp_path / "set.tgz"))


def test_links_in_a_zip_are_refused(tmp_path):
    link = zipfile.ZipInfo("cat/1.png")
    link.external_attr = 0o120777 << 16
    write_zip(tmp_path / "set.zip", [(link, b"/etc/passwd")])
    with pytest.raises(DataError, match=r"set.zip: cat/1.png: is a link or no file; put the image itself there"):
        read(str(tmp_path / "set.zip"))


@pytest.mark.parametrize("members", [[], [("notes.txt", b"no image")]])
@pytest.mark.parametrize(("write", "file"), [(write_zip, "set.zip"), (write_tar, "set.tar.gz")])
def test_an_archive_without_images_is_refused(tmp_path, write, file, members):
    write(tmp_path / file, members)
    with pytest.raises(DataError, match=f"^{tmp_path}/{file}: holds no images; put each in a folder named for its"):
        read(str(tmp_path / file))


@pytest.mark.parametrize(("field", "value", "message"), [
    ("flag_bits", 1, "cat/1.png: is encrypted; decrypt it"),
    ("filename", "", "a file without a name; fetch it again")])
def test_encrypted_and_nameless_files_in_a_zip_are_refused(tmp_path, field, value, message):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("cat/1.png", b"")
        setattr(archive.getinfo("cat/1.png"), field, value)  # as the directory, written last, will say
    with pytest.raises(DataError, match=f"^{tmp_path}/set.zip: {message}$"):
        read(str(tmp_path / "set.zip"))


def test_a_zip_cut_at_its_front_is_refused(pixels, write_folders):
    file = Path(packed(write_folders({"cat/1.png": pixels(1)[0]}), "zip"))
    with zipfile.ZipFile(file) as archive:
        first = min(archive.infolist(), key=lambda entry: (entry.is_dir(), entry.header_offset))
    file.write_bytes(file.read_bytes()[first.header_offset + 1:])
    with pytest.raises(DataError, match=rf"^{file}: not a whole archive \(.*\); fetch it again$"):
        read(str(file))


def test_a_damaged_zip_packed_by_bzip2_is_refused_and_a_disk_that_fails_is_not_the_zips_fault(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("cat/1.png", bytes(99))
        entry = archive.getinfo("cat/1.png")
    content = bytearray((tmp_path / "set.zip").read_bytes())
    content[entry.header_offset + 30 + len(entry.filename)] ^= 1  # the first byte packed
    (tmp_path / "set.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"set.zip: not a whole archive \(Invalid data stream\); fetch it again$"):
        read(str(tmp_path / "set.zip"))

    def fail(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(zipfile.ZipFile, "open", fail)
    with pytest.raises(DataError, match=r"set.zip: cannot be read \(Input/output error\); check its permissions"):
        read(str(tmp_path / "set.zip"))


@pytest.mark.parametrize("folder_first", [True, False])
def test_a_folder_in_a_tar_is_not_read_for_the_file_of_its_name(tmp_path, pixels, folder_first):
    folder = tarfile.TarInfo("data_batch_1.bin")
    folder.type = tarfile.DIRTYPE
    image = pixels(1, 32, 32, 3)
    members = [("data_batch_1.bin", b"\0" + image[0].transpose(2, 0, 1).tobytes()), (folder, b"")]
    write_tar(tmp_path / "set.tar.gz", members[::-1] if folder_first else members)
    np.testing.assert_array_equal(read(str(tmp_path / "set.tar.gz")).images, image)


def test_an_extended_header_too_large_to_read_whole_is_refused(tmp_path):
    header = tarfile.TarInfo("cat/1.png")
    header.pax_headers = {"comment": "a" * (1 << 20)}
    write_tar(tmp_path / "set.tar.gz", [(header, b"")])
    message = r"set.tar.gz: not a whole archive \(an extended header of 1,048,5\d\d bytes\); fetch it again$"
    with pytest.raises(DataError, match=message):
        read(str(tmp_path / "set.tar.gz"))


@pytest.mark.parametrize(("write", "file"), [(write_zip, "set.zip"), (write_tar, "set.tar.gz")])
def test_an_archive_that_declares_a_bomb_is_refused(tmp_path, write, file):
    write(tmp_path / file, [("cat/1.png", bytes(100 << 20))])
    with pytest.raises(DataError, match=f"{file}: cat/1.png: with it the files declare more than 200 times the"):
        read(str(tmp_path / file))


def test_a_zip_that_holds_more_than_it_declares_is_refused(tmp_path, pixels, encoded):
    content = encoded(pixels(1)[0]) + bytes(9 << 20)
    write_zip(tmp_path / "set.zip", [("cat/1.png", content)])
    size, archive = len(content).to_bytes(4, "little"), (tmp_path / "set.zip").read_bytes()
    assert archive.count(size) == 2
    (tmp_path / "set.zip").write_bytes(archive.replace(size, (len(content) - 5).to_bytes(4, "little")))
    with pytest.raises(DataError, match=r"set.zip: not a whole archive \(Bad CRC-32 for file 'cat/1.png'\); fetch"):
        read(str(tmp_path / "set.zip"))


def test_every_truncation_of_an_archive_is_refused(pixels, write_folders):
    folder = write_folders({"cat/1.png": pixels(1)[0], "dog/1.png": pixels(1)[0]})
    for kind in ("zip", "tar", "gztar"):
        file = folder.parent / packed(folder, kind)
        content = file.read_bytes()
        for keep in range(0, len(content) - 9 if kind != "tar" else len(content.rstrip(b"\0")), 97):
            file.write_bytes(content[:keep])
            with pytest.raises(DataError) as refusal:
                read(str(file))
            assert str(refusal.value).startswith(str(file))
            assert "\n" not in str(refusal.value)


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path, pixels, encoded):
    write_tar(tmp_path / "set.tar.gz", [(f"cat/{row}.png", encoded(image)) for row, image in enumerate(pixels(3))])
    content = bytearray(gzip.decompress((tmp_path / "set.tar.gz").read_bytes()))
    content[content.index(b"cat/2.png")] ^= 1
    (tmp_path / "set.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"set.tar: not a whole archive \(bad checksum\); fetch it again"):
        read(str(tmp_path / "set.tar"))
