"""Formats that hold pixels as they are: CIFAR binary and python, MATLAB, npz; written here, read back, refused."""

import pickle
import struct
import tarfile
import zipfile
from io import BytesIO

import numpy as np
import pytest
from scipy import io

from nfk.data import cifar_binary, cifar_python
from nfk.data.decode import Wanted
from nfk.data.image_set import DataError
from nfk.data.read import read

CLASSES = ("airplane", "automobile", "bird")


def records(images, labels, coarse=False):
    """CIFAR's binary records, by their definition."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return b"".join((b"\7" if coarse else b"") + bytes([label]) + plane.tobytes()
                    for label, plane in zip(labels, planes, strict=True))


def batch(images, labels, key="labels", protocol=2):
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return pickle.dumps({b"data": planes, key.encode(): list(labels), b"batch_label": b"one"}, protocol)


def write_binary(folder, images, labels):
    (folder / "data_batch_1.bin").write_bytes(records(images[:2], labels[:2]))
    (folder / "data_batch_2.bin").write_bytes(records(images[2:4], labels[2:4]))
    (folder / "test_batch.bin").write_bytes(records(images[4:], labels[4:]))
    (folder / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n\n")


def write_python(folder, images, labels):
    (folder / "data_batch_1").write_bytes(batch(images[:2], labels[:2]))
    (folder / "data_batch_2").write_bytes(batch(images[2:4], labels[2:4]))
    (folder / "test_batch").write_bytes(batch(images[4:], labels[4:]))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [name.encode() for name in CLASSES]}))


@pytest.fixture
def cifar(pixels):
    return pixels(6, 32, 32, 3), [2, 0, 1, 2, 0, 1]


@pytest.mark.parametrize("write", [write_binary, write_python])
@pytest.mark.parametrize("archived", [False, True])
def test_cifar_10(tmp_path, cifar, write, archived):
    images, labels = cifar
    source = tmp_path / "cifar-10-batches"
    source.mkdir()
    write(source, images, labels)
    if archived:
        with tarfile.open(tmp_path / "cifar.tar.gz", "w:gz") as archive:
            archive.add(source, source.name)
        source = tmp_path / "cifar.tar.gz"
    found = read(str(source))
    np.testing.assert_array_equal(found.images, images)
    assert found.labels.tolist() == labels
    assert found.class_names == CLASSES
    assert found.test_from == 4


def test_cifar_100_has_two_labels_a_record(tmp_path, cifar):
    images, labels = cifar
    (tmp_path / "train.bin").write_bytes(records(images[:4], labels[:4], coarse=True))
    (tmp_path / "test.bin").write_bytes(records(images[4:], labels[4:], coarse=True))
    (tmp_path / "fine_label_names.txt").write_text("\n".join(CLASSES))
    found = read(str(tmp_path))
    np.testing.assert_array_equal(found.images, images)
    assert found.labels.tolist() == labels


def test_one_binary_batch(tmp_path, cifar):
    images, labels = cifar
    (tmp_path / "data_batch_3.bin").write_bytes(records(images, labels))
    found = read(str(tmp_path / "data_batch_3.bin"))
    np.testing.assert_array_equal(found.images, images)
    assert found.class_names == ("0", "1", "2")


def test_blocks_keep_their_rows(monkeypatch, tmp_path, cifar):
    monkeypatch.setattr(cifar_binary, "_RECORDS", 2)
    write_binary(tmp_path, *cifar)
    np.testing.assert_array_equal(read(str(tmp_path)).images, cifar[0])
    small = read(str(tmp_path), wanted=Wanted(size=(16, 8), channels="grey"))
    assert small.images.shape == (6, 16, 8, 1)


@pytest.mark.parametrize(("content", "message"), [
    (b"", "data_batch_2.bin: holds no records; fetch the file again"),
    (bytes(3073 + 99), "data_batch_2.bin: row 1: ends after 99 of a record's 3,073 bytes; fetch the file again"),
    (b"\7" + bytes(3072), "data_batch_2.bin: row 0: label 7 is outside the classes 0 to 2; correct the label"),
])
def test_damaged_binary_batches_are_refused(tmp_path, cifar, content, message):
    write_binary(tmp_path, *cifar)
    (tmp_path / "data_batch_2.bin").write_bytes(content)
    with pytest.raises(DataError, match=f"^{tmp_path}/{message}"):
        read(str(tmp_path))


class Harmful:
    def __reduce__(self):
        return print, ("executed",)


PLANES = np.zeros((2, 3072), np.uint8)


class WithoutState:
    def __reduce__(self):
        return PLANES.__reduce__()[:2]


def test_the_python_version_of_cifar_100_as_a_folder(tmp_path, cifar):
    images, labels = cifar
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2).reshape(len(images), -1))
    for name, rows in (("train", slice(0, 4)), ("test", slice(4, None))):
        (tmp_path / name).write_bytes(pickle.dumps({"data": planes[rows], "fine_labels": labels[rows]}, 2))
    (tmp_path / "meta").write_bytes(pickle.dumps({"fine_label_names": list(CLASSES)}, 2))
    found = read(str(tmp_path))
    np.testing.assert_array_equal(found.images, images)
    assert (found.labels.tolist(), found.class_names, found.test_from) == (labels, CLASSES, 4)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_arrays_of_every_protocol_are_understood_or_refused_in_one_line(tmp_path, cifar, protocol):
    images, labels = cifar
    (tmp_path / "data_batch_1").write_bytes(batch(images, labels, protocol=protocol))
    if protocol in (2, 3, 4):
        np.testing.assert_array_equal(read(str(tmp_path)).images, images)
    else:
        try:
            np.testing.assert_array_equal(read(str(tmp_path)).images, images)
        except DataError as refusal:
            assert "\n" not in str(refusal)


@pytest.mark.parametrize(("content", "message"), [
    (pickle.dumps(Harmful()), r"not a whole or no harmless pickle \(asks for builtins.print, which no image set needs"),
    (pickle.dumps({"data": PLANES, "labels": [0, 0], "x": Harmful()}), "not a whole or no harmless pickle"),
    (batch(np.zeros((2, 32, 32, 3), np.uint8), [0, 0])[:-700], "not a whole or no harmless pickle"),
    (pickle.dumps([1]), "holds a list, must be a dictionary; use a batch of CIFAR"),
    (pickle.dumps({"data": [1], "labels": [0]}), "key 'data' is no array; use a batch of CIFAR"),
    (pickle.dumps({"data": PLANES[:, 1:].copy(), "labels": [0]}, 2), r"key 'data' must be an array of bytes of shape"),
    (pickle.dumps({"data": PLANES.astype(float), "labels": [0]}, 2), r"key 'data' must be an array of bytes of shape"),
    (pickle.dumps({"data": PLANES, "labels": [0]}, 2), "1 labels for 2 images; fetch the file again"),
    (pickle.dumps({"data": PLANES, "labels": ["a", "b"]}, 2), "key 'labels' or 'fine_labels' must be a list of class"),
    (pickle.dumps({"data": PLANES, "labels": [0, -1]}, 2), "key 'labels' or 'fine_labels' must be a list of class"),
    (pickle.dumps({"data": WithoutState(), "labels": [0]}, 2), r"key 'data' must be an array of bytes of shape"),
    (b"", "not a whole or no harmless pickle"),
    (b"P1\n.", r"not a whole or no harmless pickle \(asks for an object outside the file\); fetch the file again"),
    (b"Np99\n.", r"not a whole or no harmless pickle \(keeps something at place 99 of 2\); fetch the file again"),
])
def test_pickles_run_nothing_and_are_refused_by_name(tmp_path, capsys, content, message):
    (tmp_path / "data_batch_1").write_bytes(content)
    with pytest.raises(DataError, match=f"^{tmp_path}/data_batch_1: {message}") as refusal:
        read(str(tmp_path))
    assert "\n" not in str(refusal.value)
    assert capsys.readouterr().out == ""


def test_a_pickle_that_asks_for_the_same_text_again_and_again_is_refused(tmp_path):
    text = b"X" + struct.pack("<I", 4 << 20) + bytes(4 << 20)
    again = b"h\x00h\x01h\x01\x86R0"  # encode(text, text), dropped
    (tmp_path / "data_batch_1").write_bytes(b"c_codecs\nencode\nq\x00" + text + b"q\x01" + 65 * again + b".")
    with pytest.raises(DataError, match=rf"^{tmp_path}/data_batch_1: not a whole or no harmless pickle \(asks for more "
                                        r"than 256 MiB of text\); fetch the file again$"):
        read(str(tmp_path))


def test_a_batch_too_large_to_be_read_whole_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar_python, "_LARGEST", 1 << 20)
    (tmp_path / "data_batch_1").write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(DataError, match=f"^{tmp_path}/data_batch_1: has more than 1 MiB, too many for a batch of "
                                        "CIFAR; use Parquet$"):
        read(str(tmp_path))


@pytest.mark.parametrize("names", [None, "airplane", [], [1, 2, 3], ["a" * 1001], ["a"] * 65_537])
def test_unusable_class_names_of_the_python_version_are_refused(tmp_path, cifar, names):
    write_python(tmp_path, *cifar)
    (tmp_path / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    with pytest.raises(DataError, match=f"^{tmp_path}/batches.meta: key 'label_names' must be a list of class names; "
                                        "fetch the file again$"):
        read(str(tmp_path))


def write_mat(file, images, labels, **options):
    io.savemat(file, {"X": images.transpose(1, 2, 3, 0), "y": np.asarray(labels, np.uint8)[:, None]}, **options)


@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_where_label_10_is_the_digit_0(tmp_path, cifar, compressed):
    images, _ = cifar
    write_mat(tmp_path / "train_32x32.mat", images[:4], [1, 10, 9, 2], do_compression=compressed)
    write_mat(tmp_path / "test_32x32.mat", images[4:], [10, 3], do_compression=compressed)
    found = read(str(tmp_path))
    np.testing.assert_array_equal(found.images, images)
    assert found.labels.tolist() == [1, 0, 9, 2, 0, 3]
    assert found.class_names == tuple("0123456789")
    assert found.test_from == 4


def test_matlab_labels_from_0_are_kept(tmp_path, cifar):
    write_mat(tmp_path / "set.mat", cifar[0], [0, 10, 9, 2, 1, 1])
    found = read(str(tmp_path / "set.mat"))
    assert found.labels.tolist() == [0, 10, 9, 2, 1, 1]
    assert found.test_from is None


@pytest.mark.parametrize(("train", "test", "expected"), [
    ([1, 10, 9, 2], [7, 3], [1, 0, 9, 2, 7, 3]),  # a part without the digit 0
    ([0, 10, 9, 2], [10, 3], [0, 10, 9, 2, 10, 3]),  # eleven classes from 0, whichever part shows it
    ([1, 10, 20, 2], [10, 3], [1, 10, 20, 2, 10, 3]),  # twenty classes from 1
])
def test_matlab_labels_are_read_over_the_whole_set(tmp_path, cifar, train, test, expected):
    write_mat(tmp_path / "train_32x32.mat", cifar[0][:4], train)
    write_mat(tmp_path / "test_32x32.mat", cifar[0][4:], test)
    assert read(str(tmp_path)).labels.tolist() == expected


MAT_73 = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n"


@pytest.mark.parametrize(("content", "message"), [
    (MAT_73, r"is a MATLAB file of version 7.3 \(HDF5\), must be version 5; save it with -v7"),
    ({"X": np.zeros((2, 2, 3, 4), np.uint8)}, r"no key 'y' \(keys: X\); it must hold X and y"),
    ({"X": np.zeros((2, 2, 2, 4), np.uint8), "y": [1]}, r"key 'X' has shape \(2, 2, 2, 4\), must be \(height, width"),
    ({"X": np.zeros((2, 2, 3, 4)), "y": [1] * 4}, "key 'X' is float64, must be uint8; convert it"),
    ({"X": np.zeros((2, 2, 3, 4), np.uint8), "y": [1] * 3}, "3 labels in 'y' for the 4 images in 'X'; fetch"),
    ({"X": np.zeros((2, 2, 3, 4), np.uint8), "y": [1.5] * 4}, "key 'y' must hold whole numbers, the classes"),
    ({"X": np.zeros((2, 2, 3, 4), np.uint8), "y": [1j] * 4}, "key 'y' is no array of numbers; convert it"),
    ({"X": "text", "y": [1]}, "key 'X' is no array of numbers; convert it"),
    ({"X": np.zeros((2, 2, 3, 4), np.uint8), "y": [1, 2, -1, 1]}, "row 2: label -1 is outside the classes 0 to 2"),
])
def test_unusable_matlab_files_are_refused(tmp_path, content, message):
    if isinstance(content, bytes):
        (tmp_path / "set.mat").write_bytes(content)
    else:
        io.savemat(tmp_path / "set.mat", content)
    with pytest.raises(DataError, match=f"^{tmp_path}/set.mat: {message}"):
        read(str(tmp_path / "set.mat"))


def test_a_truncated_matlab_file_is_refused(tmp_path, cifar):
    write_mat(tmp_path / "set.mat", cifar[0], [1] * 6)
    content = (tmp_path / "set.mat").read_bytes()
    for keep in (0, 60, 127, 128, 140, 5000, len(content) - 30):
        (tmp_path / "set.mat").write_bytes(content[:keep])
        with pytest.raises(DataError, match=f"^{tmp_path}/set.mat: ") as refusal:
            read(str(tmp_path / "set.mat"))
        assert "\n" not in str(refusal.value)


def test_matlab_files_of_several_sizes_are_refused(tmp_path, pixels):
    write_mat(tmp_path / "train_32x32.mat", pixels(2, 32, 32, 3), [1, 2])
    write_mat(tmp_path / "test_32x32.mat", pixels(2, 32, 30, 3), [1, 2])
    with pytest.raises(DataError, match=rf"^{tmp_path}/test_32x32.mat: images of shape \(32, 30, 3\), those of "
                                        r"train_32x32.mat have \(32, 32, 3\); use files of the same set$"):
        read(str(tmp_path))


@pytest.mark.parametrize("key", ["X", "y"])
def test_damaged_matlab_values_are_refused(tmp_path, cifar, key):
    write_mat(tmp_path / "set.mat", cifar[0], [1] * 6, do_compression=True)
    content = bytearray((tmp_path / "set.mat").read_bytes())
    end_of_x = 136 + struct.unpack_from("<I", content, 132)[0]
    content[end_of_x - 1 if key == "X" else -1] ^= 1  # in its checksum
    (tmp_path / "set.mat").write_bytes(content)
    with pytest.raises(DataError, match=rf"^{tmp_path}/set.mat: not a whole MATLAB file \(Error -3 while decompressing "
                                        r"data: incorrect data check\); fetch it again$"):
        read(str(tmp_path / "set.mat"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_npz_of_two_parts(tmp_path, pixels, save, channels):
    images = pixels(6, channels=channels or 1)
    stored = images if channels else images[..., 0]
    labels = np.asarray([2, 0, 1, 2, 0, 1])
    save(tmp_path / "set.npz", x_train=stored[:4], y_train=labels[:4], x_test=stored[4:], y_test=labels[4:, None])
    found = read(str(tmp_path / "set.npz"))
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.test_from == 4


@pytest.mark.parametrize("pair", [("images", "labels"), ("image", "label"), ("x", "y")])
def test_npz_of_one_part(tmp_path, pixels, pair):
    images = pixels(3)
    np.savez(tmp_path / "set.npz", **dict(zip(pair, (images, [1, 0, 1]), strict=True)))
    found = read(str((tmp_path / "set.npz").rename(tmp_path / "set")))  # told by content
    np.testing.assert_array_equal(found.images, images)
    assert found.test_from is None


IMAGES = np.zeros((2, 4, 4), np.uint8)


@pytest.mark.parametrize(("arrays", "message"), [
    ({"images": np.asarray([None, 1], object), "labels": [0, 1]},
     "key 'images' holds pickled objects, which are never loaded; save it as numbers"),
    ({"images": IMAGES, "labels": np.asarray([0, Harmful()], object)}, "key 'labels' holds pickled objects"),
    ({"pictures": IMAGES, "labels": [0, 1]}, "keys pictures, labels; must be x_train and y_train; images and labels"),
    ({"images": IMAGES / 255, "labels": [0, 1]}, r"key 'images' is float64 of shape \(2, 4, 4\), must be uint8"),
    ({"images": IMAGES, "labels": [0, 1, 1]}, r"key 'labels' is int64 of shape \(3,\), must be integers of shape \(2,"),
    ({"images": IMAGES, "labels": [0, -1]}, "key 'labels': row 1: label -1 is outside the classes 0 to 0"),
    ({"images": np.asfortranarray(np.zeros((2, 4, 3), np.uint8)), "labels": [0, 1]},
     "key 'images' is in column order; save numpy.ascontiguousarray of it"),
    ({"x_train": IMAGES, "y_train": [0, 1], "x_test": IMAGES[:, 1:], "y_test": [0, 1]},
     r"key 'x_test': images of shape \(3, 4, 1\), those of 'x_train' have \(4, 4, 1\); make all images one size"),
])
def test_unusable_npz_files_are_refused(tmp_path, capsys, arrays, message):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(DataError, match=f"^{tmp_path}/set.npz: {message}"):
        read(str(tmp_path / "set.npz"))
    assert capsys.readouterr().out == ""


def test_truncated_and_damaged_npz_files_are_refused(tmp_path, pixels):
    images = pixels(9)
    np.savez(tmp_path / "set.npz", images=images, labels=[0] * 9)
    content = (tmp_path / "set.npz").read_bytes()
    damaged = bytearray(content)
    damaged[content.index(images.tobytes()) + 40] ^= 1
    for wrong in (content[:0], content[:50], content[:-30], bytes(damaged)):
        (tmp_path / "set.npz").write_bytes(wrong)
        with pytest.raises(DataError, match=f"^{tmp_path}/set.npz: .*not a whole .npz file .*; fetch it again"):
            read(str(tmp_path / "set.npz"))


def npy(shape, content, dtype="|u1", version=(1, 0)):
    """An array of .npy whose header may say what its content is not."""
    header = BytesIO()
    write = {1: np.lib.format.write_array_header_1_0, 2: np.lib.format.write_array_header_2_0}[version[0]]
    write(header, {"shape": shape, "fortran_order": False, "descr": dtype})
    return header.getvalue() + content


def write_npz(file, images, labels):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("images.npy", images)
        archive.writestr("labels.npy", labels)


LABELS = npy((2,), bytes(16), "<i8")


def test_npy_format_2_is_read(tmp_path):
    write_npz(tmp_path / "set.npz", npy((2, 4, 4), bytes(range(32)), version=(2, 0)), LABELS)
    found = read(str(tmp_path / "set.npz"))
    assert found.images.ravel().tolist() == list(range(32))
    assert found.labels.tolist() == [0, 0]


@pytest.mark.parametrize(("images", "labels", "message"), [
    (npy((2, 4, 4), bytes(31)), LABELS, "key 'images' ends after 31 of 32 bytes; fetch the file again"),
    (npy((2, 4, 4), bytes(16)), LABELS, "key 'images' ends after 16 of 32 bytes; fetch the file again"),
    (npy((2, 4, 4), bytes(33)), LABELS, "key 'images' goes on after its 32 bytes; fetch the file again"),
    (npy((2, 4, 4), bytes(32)), LABELS[:-1], "key 'labels' ends after 15 of 16 bytes; fetch the file again"),
    (npy((2, 4, 4), bytes(32)), LABELS + b"1", "key 'labels' goes on after its 16 bytes; fetch the file again"),
    (b"\x93NUMPY\3\0", LABELS, r"key 'images' is in npy format \(3, 0\), must be 1.0 or 2.0; save it again"),
    (b"\x93NUMPY\2\0" + struct.pack("<I", 20_000), LABELS,
     r"key 'images': not a whole .npz file \(a header of 20,000 bytes\); fetch it again"),
    (npy((1 << 40, 1, 1), b""), npy((1 << 40,), b"", "<i8"), r"key 'labels' needs 16,384.0 GiB of memory by its "
     "header, [0-9.,]+ GiB are available; split the file or convert it to Parquet, or check that the file is whole"),
])
def test_npz_arrays_that_are_not_as_their_headers_say_are_refused(tmp_path, images, labels, message):
    write_npz(tmp_path / "set.npz", images, labels)
    with pytest.raises(DataError, match=f"^{tmp_path}/set.npz: {message}$"):
        read(str(tmp_path / "set.npz"))


def test_an_npz_array_beyond_what_a_file_can_have_is_refused(tmp_path):
    write_npz(tmp_path / "set.npz", npy((2, 4, 4), bytes(32)), LABELS)
    with zipfile.ZipFile(tmp_path / "set.npz", "a") as archive:
        archive.getinfo("images.npy").header_offset = 1 << 62
        archive.writestr("more", "")  # so that the list of files is written again
    with pytest.raises(DataError, match=rf"^{tmp_path}/set.npz: key 'images': not a whole .npz file \(.*\); fetch it "
                                        "again$"):
        read(str(tmp_path / "set.npz"))


def test_a_damaged_npz_packed_by_bzip2_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("images.npy", npy((2, 4, 4), bytes(32)))
        archive.writestr("labels.npy", LABELS)
        entry = archive.getinfo("images.npy")
    content = bytearray((tmp_path / "set.npz").read_bytes())
    content[entry.header_offset + 30 + len(entry.filename)] ^= 1  # the first byte packed
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(DataError, match=rf"^{tmp_path}/set.npz: key 'images': not a whole .npz file \(Invalid data "
                                        r"stream\); fetch it again$"):
        read(str(tmp_path / "set.npz"))


def test_a_disk_that_fails_below_an_npz_file_is_told_as_such(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(5, "Input/output error")

    write_npz(tmp_path / "set.npz", npy((2, 4, 4), bytes(32)), LABELS)
    monkeypatch.setattr(np.lib.format, "read_magic", fail)
    with pytest.raises(DataError, match=rf"^{tmp_path}/set.npz: cannot be read \(Input/output error\); check its "
                                        "permissions and the disk$"):
        read(str(tmp_path / "set.npz"))
