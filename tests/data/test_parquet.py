"""Parquet in the Hugging Face layout: what is written is read, and every fault is refused by file and row."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nfk.data import decode, parquet
from nfk.data.digest import digest
from nfk.data.image_set import DataError
from nfk.data.read import read


@pytest.mark.parametrize(("column", "channels"), [("image", 1), ("img", 3)])
def test_one_file(pixels, write_parquet, column, channels):
    images, reports = pixels(4, channels=channels), []
    file = write_parquet("some.parquet", images, [2, 0, 1, 1], column=column)
    found = read(str(file), lambda done, total: reports.append((done, total)))
    np.testing.assert_array_equal(found.images, images)
    assert found.labels.tolist() == [2, 0, 1, 1]
    assert found.class_names == ("cat", "dog", "eel")
    assert found.test_from is None
    assert found.source == "Parquet file some.parquet"
    assert found.digest == digest([file])
    assert reports == [(4, 4)]


def test_shards_of_two_parts_in_order_of_name(tmp_path, pixels, write_parquet):
    images, labels = pixels(9), [0, 1, 2, 0, 1, 2, 0, 1, 2]
    rows = {"train-00000-of-00002.parquet": slice(0, 3), "train-00001-of-00002.parquet": slice(3, 5),
            "test-00000-of-00001.parquet": slice(5, 9)}
    files = [write_parquet(name, images[part], labels[part]) for name, part in rows.items()]
    (tmp_path / "README.md").write_text("not data")
    found = read(str(tmp_path))
    np.testing.assert_array_equal(found.images, images)
    assert found.labels.tolist() == labels
    assert found.test_from == 5
    assert found.digest == digest(files)


def test_many_rows_keep_their_order_over_batches_and_threads(monkeypatch, pixels, write_parquet):
    monkeypatch.setattr(parquet, "_BATCH", 64)
    monkeypatch.setattr(decode, "_SLICE", 5)
    monkeypatch.setattr(decode, "_THREADS", 4)
    images, labels, reports = pixels(200), np.arange(200) % 3, []
    file = write_parquet("train.parquet", images, labels)
    found = read(str(file), lambda done, total: reports.append((done, total)))
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_array_equal(found.labels, labels)
    assert reports == [(64, 200), (128, 200), (192, 200), (200, 200)]


def test_without_metadata_classes_are_numbered(pixels, write_parquet):
    file = write_parquet("train.parquet", pixels(3), [0, 3, 1], names=None, label_type="uint8")
    assert read(str(file)).class_names == ("0", "1", "2", "3")


def test_content_tells_the_format_where_the_name_does_not(pixels, write_parquet):
    images = pixels(2)
    file = write_parquet("train.parquet", images, [0, 1])
    np.testing.assert_array_equal(read(str(file.rename(file.with_name("digits")))).images, images)


@pytest.mark.parametrize(("label", "message"), [
    (3, "train.parquet: row 2: label 3 is outside the classes 0 to 2; correct the label or drop the row"),
    (-1, "train.parquet: row 2: label -1 is outside the classes 0 to 2"),
    (None, "train.parquet: row 2: has no label; add it or drop the row"),
])
def test_labels_that_are_no_class_are_refused(pixels, write_parquet, label, message):
    file = write_parquet("train.parquet", pixels(4), [0, 1, label, 2])
    with pytest.raises(DataError, match=message):
        read(str(file))


@pytest.mark.parametrize(("labels", "message"), [
    ([0, 70_000], "row 1: label 70000 without class names must be below 65536"),
    ([0, -2], "row 1: label -2 is outside the classes 0 to 0"),
])
def test_unnamed_labels_are_bounded(pixels, write_parquet, labels, message):
    file = write_parquet("train.parquet", pixels(2), labels, names=None)
    with pytest.raises(DataError, match=message):
        read(str(file))


def test_the_test_part_has_the_classes_of_the_train_part(tmp_path, pixels, write_parquet):
    write_parquet("train.parquet", pixels(2), [0, 1], names=None)
    write_parquet("test.parquet", pixels(2), [0, 2], names=None)
    with pytest.raises(DataError, match=r"test.parquet: row 1: label 2 is outside the classes 0 to 1"):
        read(str(tmp_path))
    write_parquet("train.parquet", pixels(2), [0, 1])
    write_parquet("test.parquet", pixels(2), [0, 2], names=("cat", "eel", "dog"))
    with pytest.raises(DataError, match=r"test.parquet: its class names differ from those of train.parquet"):
        read(str(tmp_path))


@pytest.mark.parametrize(("fault", "message"), [
    (lambda images: images[2][:-30], r"row 2: cannot be decoded"),
    (lambda images: b"no image", "row 2: is no PNG, JPEG, WEBP or BMP image"),
    (lambda images: None, "row 2: holds no image bytes"),
])
def test_a_faulty_image_is_named_by_its_row(tmp_path, pixels, encoded, write_parquet, fault, message):
    images = [encoded(image) for image in pixels(5)]
    write_parquet("train-0.parquet", images, [0] * 5)
    write_parquet("train-1.parquet", [*images[:2], fault(images), *images[3:]], [0] * 5)
    with pytest.raises(DataError, match=f"train-1.parquet: {message}"):
        read(str(tmp_path))


def test_the_first_of_several_faults_is_named(monkeypatch, pixels, write_parquet):
    monkeypatch.setattr(decode, "_SLICE", 1)
    images = list(pixels(40))
    images[11] = images[17] = images[30] = b"no image"
    with pytest.raises(DataError, match="row 11: "):
        read(str(write_parquet("train.parquet", images, [0] * 40)))


def test_images_of_two_sizes_over_two_shards_are_refused(tmp_path, pixels, write_parquet):
    write_parquet("train-0.parquet", pixels(2, 6, 5), [0, 0])
    write_parquet("train-1.parquet", pixels(2, 6, 7), [0, 0])
    with pytest.raises(DataError, match=r"train-1.parquet: row 0: is 6 × 7 × 1, the first image is 6 × 5"):
        read(str(tmp_path))


def test_a_null_struct_is_refused(tmp_path, encoded):
    layout = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    picture = {"bytes": encoded(np.zeros((2, 2, 1), np.uint8)), "path": None}
    pq.write_table(pa.table({"image": pa.array([picture, None], layout), "label": [0, 0]}),
                   tmp_path / "train.parquet")
    with pytest.raises(DataError, match="row 1: holds no image bytes"):
        read(str(tmp_path))


@pytest.mark.parametrize(("table", "message"), [
    ({"picture": [{"bytes": b""}], "label": [0]},
     r"no column 'image' or 'img' \(columns: picture, label\); rename the column of images"),
    ({"image": [{"bytes": b""}], "fine_label": [0]},
     r"no column 'label' \(columns: image, fine_label\); rename the column of class"),
    ({"image": [{"path": "0.png"}], "label": [0]}, "column 'image' is struct<path: string>, must be"),
    ({"image": [b""], "label": [0]}, "column 'image' is binary, must be a struct"),
    ({"image": [{"bytes": "text"}], "label": [0]}, "column 'image' is struct<bytes: string>"),
    ({"image": [{"bytes": b""}], "label": ["cat"]}, "column 'label' is string, must be an integer"),
])
def test_missing_or_wrong_columns_are_refused(tmp_path, table, message):
    pq.write_table(pa.table(table), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=f"train.parquet: {message}"):
        read(str(tmp_path))


@pytest.mark.parametrize("metadata", [
    b"{", b"[]", b'{"info": {"features": {}}}', b'{"info": {"features": null}}',
    b'{"info": {"features": {"label": {"names": []}}}}',
    b'{"info": {"features": {"label": {"names": [1, 2]}}}}'])
def test_unusable_metadata_is_refused(tmp_path, metadata):
    table = pa.table({"image": [{"bytes": b""}], "label": [0]})
    pq.write_table(table.replace_schema_metadata({b"huggingface": metadata}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"train.parquet: metadata key 'huggingface' has no class names at "
                                        r"info.features.label.names; write them there, or remove the key"):
        read(str(tmp_path))


@pytest.mark.parametrize("empty", ["train", "test"])
def test_a_part_without_rows_is_refused(tmp_path, pixels, write_parquet, empty):
    for part in ("train", "test"):
        images = pixels(0 if part == empty else 2)
        write_parquet(f"{part}.parquet", images, [0] * len(images))
    with pytest.raises(DataError, match=f"{empty}.parquet: holds no images"):
        read(str(tmp_path))


def test_an_empty_shard_among_others_is_harmless(tmp_path, pixels, write_parquet):
    write_parquet("train-0.parquet", [], [])
    write_parquet("train-1.parquet", pixels(2), [0, 1])
    assert len(read(str(tmp_path))) == 2


@pytest.mark.parametrize("keep", [0, 3, 100, -1, -9])
def test_a_truncated_file_is_refused(pixels, write_parquet, keep):
    file = write_parquet("train.parquet", pixels(20), [0] * 20)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"train.parquet: not a whole Parquet .*; fetch it again") as refusal:
        read(str(file))
    assert "\n" not in str(refusal.value)


def test_a_flipped_bit_in_a_checksummed_page_is_refused(tmp_path, pixels, encoded):
    images = [encoded(image) for image in pixels(20)]
    table = pa.table({"image": [{"bytes": image} for image in images], "label": [0] * 20})
    pq.write_table(table, tmp_path / "train.parquet", write_page_checksum=True, compression="none",
                   use_dictionary=False)
    content = bytearray((tmp_path / "train.parquet").read_bytes())
    content[content.index(images[7]) + 50] ^= 1
    (tmp_path / "train.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"train.parquet: not a whole Parquet file .*(crc|CRC)"):
        read(str(tmp_path))


def test_labels_without_any_image_are_refused(tmp_path):
    table = pa.table({"image": [{"bytes": b"image"}] * 5, "label": [0] * 5})
    pq.write_table(table, tmp_path / "train.parquet", compression="none", use_dictionary=False)
    content = bytearray((tmp_path / "train.parquet").read_bytes())
    content[content.index(b"\x2c\x15\x0a") + 2] = 0  # of the first page, the images': it has no values in place of 5
    (tmp_path / "train.parquet").write_bytes(content)
    with pytest.raises(DataError, match=f"^{tmp_path}/train.parquet: 5 labels and no image; fetch it again$"):
        read(str(tmp_path))
