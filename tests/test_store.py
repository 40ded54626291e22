"""Stores are whole or refused: every byte, file and marker; scratch survives a kill."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest
import zarr

from nfk import store, zarr_folder
from nfk.store import MARKER, Scratch, StoreError

INPUTS = {"data": "d" * 64, "model": "m" * 64}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "factors.zarr"
    with store.write(path, inputs=INPUTS) as writer:
        writer.put("left", np.arange(12, dtype=np.float32).reshape(4, 3))
        writer.put("images", np.zeros((5, 4, 4, 1), np.uint8), compress=True)
        writer.attributes["rank"] = 3
    return path


def data_files(path):
    return sorted(file for file in path.rglob("*") if file.is_file() and file.name != MARKER)


def test_what_was_written_is_read(path):
    found = store.read(path)
    assert np.array_equal(found["left"][:], np.arange(12, dtype=np.float32).reshape(4, 3))
    assert np.array_equal(found["images"][:], np.zeros((5, 4, 4, 1), np.uint8))
    assert "left" in found and "right" not in found
    assert found.attributes == {"rank": 3}
    assert dict(found.inputs) == INPUTS


def test_equal_content_has_an_equal_digest_and_other_content_another(path, tmp_path):
    digests = []
    for offset in (0, 0, 1):
        other = tmp_path / f"other{len(digests)}.zarr"
        with store.write(other, inputs=INPUTS) as writer:
            writer.put("left", np.arange(12, dtype=np.float32).reshape(4, 3) + np.float32(offset))
        digests.append(store.read(other).digest)
    assert digests[0] == digests[1] != digests[2]


def test_every_flipped_bit_is_found(path):
    flips = 0
    for file in [*data_files(path), path / MARKER]:
        content = file.read_bytes()
        # every bit of the data; of the verbose JSON files one bit a byte
        bits = range(8) if file.name.startswith("c.") else [0]
        for position in range(len(content)):
            for bit in bits:
                file.write_bytes(content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1:])
                if file.name == MARKER and _same_json(file.read_bytes(), content):
                    continue  # white space of the marker carries nothing
                with pytest.raises(StoreError):
                    store.read(path)
                flips += 1
        file.write_bytes(content)
    store.read(path)
    assert flips > 2000


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


def test_every_truncation_is_found_and_named(path):
    for file in data_files(path):
        content = file.read_bytes()
        for length in range(len(content)):
            file.write_bytes(content[:length])
            with pytest.raises(StoreError, match=f"{file.relative_to(path)} has {length} bytes"):
                store.read(path)
        file.write_bytes(content)


def test_a_missing_file_is_no_fill_value(path):
    for file in data_files(path):
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(StoreError, match=f"{file.relative_to(path)} is missing"):
            store.read(path)
        file.write_bytes(content)


def test_no_file_lies_alone_in_a_folder_of_its_own_name(path):
    """MLflow's client leaves such a file out when it downloads from a server: `right/c/0/0` of every embedder."""
    files = [file for file in path.rglob("*") if file.is_file()]
    assert len(files) > 4
    assert [file for file in files if file.name == file.parent.name] == []


def test_a_store_whose_chunks_lie_in_folders_is_read_as_before(tmp_path, monkeypatch):
    """Stores were written with zarr's own names of chunks, `left/c/0/0`."""
    create = zarr.Group.create_array
    monkeypatch.setattr(zarr.Group, "create_array",
                        lambda self, name, *, chunk_key_encoding, **rest: create(self, name, **rest))
    path = tmp_path / "older.zarr"
    with store.write(path, inputs=INPUTS) as writer:
        writer.put("left", np.arange(12, dtype=np.float32).reshape(4, 3))
    assert store.read(path)["left"][:].tolist() == np.arange(12).reshape(4, 3).tolist()
    (path / "left/c/0/0").unlink()
    with pytest.raises(StoreError, match=r"array left, chunk 0/0: left/c/0/0 is missing"):
        store.read(path)


def test_a_file_too_many_is_refused(path):
    (path / "left" / "c.7").write_bytes(b"x")
    with pytest.raises(StoreError, match=r"left/c\.7 is not in the manifest"):
        store.read(path)


def test_zarr_itself_checks_the_chunk_it_reads(path):
    import zarr

    shard = path / "left" / "c.0.0"
    content = bytearray(shard.read_bytes())
    content[3] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="checksum"):
        zarr.open_group(str(path), mode="r")["left"][:]


def test_absent_and_unfinished_stores_say_so(path, tmp_path):
    with pytest.raises(StoreError, match=r"nowhere\.zarr: no such store"):
        store.read(tmp_path / "nowhere.zarr")
    (path / MARKER).unlink()
    with pytest.raises(StoreError, match="unfinished"):
        store.read(path)


def test_a_store_of_something_else_is_refused_by_digest(path):
    found = store.read(path)
    assert found.expect(**INPUTS) is found
    with pytest.raises(StoreError, match=r"was made from model mmmmmmmmmmmm, but the model here is ffffffffffff"):
        found.expect(model="f" * 64)


def test_a_failed_write_leaves_what_was_there(path):
    before = store.read(path).digest
    with pytest.raises(RuntimeError, match="midway"), store.write(path, inputs={}) as writer:
        writer.put("left", np.ones(3))
        raise RuntimeError("midway")
    assert store.read(path).digest == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_remains_of_a_kill_are_swept_by_the_next_write(path):
    remains = path.parent / f".{path.name}.4711.partial"
    remains.mkdir()
    with store.write(path, inputs={}) as writer:
        writer.put("left", np.ones(3))
    assert not remains.exists()
    assert np.array_equal(store.read(path)["left"][:], np.ones(3))


def test_a_kill_between_the_renames_of_a_replacement_loses_nothing(path):
    before = store.read(path).digest
    path.rename(path.parent / f".{path.name}.4711.old.partial")
    with pytest.raises(RuntimeError, match="midway"), store.write(path, inputs={}):
        raise RuntimeError("midway")
    assert store.read(path).digest == before


def test_an_array_of_another_name_is_refused_with_those_there_are(path):
    with pytest.raises(StoreError, match=r"factors\.zarr: no array 'right'; there are images, left"):
        store.read(path)["right"]


def test_a_store_inside_one_that_is_being_filled_needs_no_turn(tmp_path):
    with store.whole_folder(tmp_path / "outer") as building, store.write(building / "inner.zarr", inputs={}) as writer:
        writer.put("left", np.ones(3))
    assert np.array_equal(store.read(tmp_path / "outer" / "inner.zarr")["left"][:], np.ones(3))


class TestArraysOfAStore:
    def test_know_their_length_and_are_numpys_where_it_asks(self, path):
        left = store.read(path)["left"]
        assert len(left) == 4
        assert np.array_equal(np.asarray(left, np.float64), np.arange(12.0).reshape(4, 3))

    def test_say_when_another_store_has_taken_the_place(self, path):
        left = store.read(path)["left"]
        store.check_unchanged(left)
        store.check_unchanged(np.ones(3))  # no store's
        with store.write(path, inputs={}) as writer:
            writer.put("left", np.zeros((4, 3), np.float32))
        with pytest.raises(StoreError, match=r"factors\.zarr: was [0-9a-f]{12} when it was opened and is [0-9a-f]{12} "
                                             r"now; load it again"):
            store.check_unchanged(left)

    def test_have_no_private_attributes_of_zarrs(self, path):
        with pytest.raises(AttributeError, match="_async_array"):
            store.read(path)["left"]._async_array  # noqa: B018

    def test_tell_a_fault_of_the_system_once_it_passes_by_as_its_own(self, path, monkeypatch):
        left = store.read(path)["left"]
        for number, fault in ((errno.EIO, OSError), (errno.EACCES, StoreError)):
            def failing(*_, number=number, **__):
                raise OSError(number, os.strerror(number))

            monkeypatch.setattr(zarr_folder.WholeFolder, "get", failing)
            with pytest.raises(fault, match=os.strerror(number)):
                left[:]

    def test_let_an_index_out_of_bounds_be_the_callers(self, path):
        with pytest.raises(IndexError):
            store.read(path)["left"][7]

    def test_cannot_be_fill_values_once_a_file_is_gone(self, path):
        left = store.read(path)["left"]
        (path / "left" / "c.0.0").unlink()
        with pytest.raises(StoreError, match=r"array left, chunk 0\.0: left/c\.0\.0 is missing"):
            left[:]


def forge(path, change):
    """A marker that says something else and vouches for it."""
    manifest = json.loads((path / MARKER).read_text())
    del manifest["digest"]
    change(manifest)
    (path / MARKER).write_text(json.dumps({**manifest, "digest": store.json_digest(manifest)}))


@pytest.mark.parametrize("change, message", [
    (lambda manifest: manifest.update(files=[]), "is damaged"),
    (lambda manifest: manifest["files"].update({"../beside": [1, "0" * 64]}), "is damaged"),
    (lambda manifest: manifest["arrays"].update({"/left": {}}), "is damaged"),
    (lambda manifest: manifest["arrays"]["left"].update(shape=[5, 3]),
     r"array left is float32 of shape \(4, 3\) in 1 files, the manifest says float32 of shape \[5, 3\], which takes 1"),
    (lambda manifest: manifest["arrays"].update({"none": {}}), "its arrays cannot be read"),
    (lambda manifest: manifest.update(format=99), r"written in store format 99, this nfk reads \d+; delete the store"),
])
def test_a_marker_that_vouches_for_what_is_not_there_is_refused(path, change, message):
    forge(path, change)
    with pytest.raises(StoreError, match=message):
        store.read(path)


@pytest.mark.parametrize("text", ["[]", "{}", "nothing", "[" * 100_000])
def test_a_marker_that_is_none_is_refused(path, text):
    (path / MARKER).write_text(text)
    with pytest.raises(StoreError, match=rf"{MARKER} is damaged; delete the store and run again"):
        store.read(path)


def test_a_marker_that_does_not_match_its_digest_is_refused(path):
    (path / MARKER).write_text((path / MARKER).read_text().replace('"rank": 3', '"rank": 4'))
    with pytest.raises(StoreError, match="does not match its own digest"):
        store.read(path)


class TestScratch:
    @property
    def arrays(self):
        return {"state": np.arange(6, dtype=np.float32).reshape(2, 3).T, "done": np.array([7]),
                "scale": np.array(2.5, np.float32)}

    def test_returns_the_same_bits(self, tmp_path):
        Scratch(tmp_path / "s").save("pass", self.arrays)
        found = Scratch(tmp_path / "s").load("pass")
        assert {name: value.tolist() for name, value in found.items()} == {
            name: value.tolist() for name, value in self.arrays.items()}
        assert found["state"].dtype == np.float32
        assert {name: value.shape for name, value in found.items()} == {"state": (3, 2), "done": (1,), "scale": ()}

    def test_a_torn_checkpoint_counts_as_absent(self, tmp_path):
        scratch = Scratch(tmp_path / "s")
        scratch.save("pass", self.arrays)
        file, = (tmp_path / "s").iterdir()
        content = file.read_bytes()
        for length in range(0, len(content), 7):
            file.write_bytes(content[:length])
            assert scratch.load("pass") is None

    def test_is_due_by_the_clock(self, tmp_path):
        assert Scratch(tmp_path, interval=0.0).due()
        assert not Scratch(tmp_path, interval=1000.0).due()

    def test_clear_leaves_nothing(self, tmp_path):
        scratch = Scratch(tmp_path / "s")
        scratch.save("pass", self.arrays)
        scratch.clear()
        assert scratch.load("pass") is None
        assert list(tmp_path.iterdir()) == []

    def test_the_last_of_several_processes_clears_the_folder_of_all(self, tmp_path):
        parts = [Scratch(tmp_path / "all" / name, within=tmp_path / "all") for name in "ab"]
        for part in parts:
            part.save("pass", self.arrays)
        parts[0].clear()
        assert parts[1].load("pass") is not None
        parts[1].clear()
        assert list(tmp_path.iterdir()) == []
