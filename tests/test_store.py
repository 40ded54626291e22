"""Stores are whole or refused: every byte, file and marker; scratch survives a kill."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nfk import store
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
        bits = range(8) if "c" in file.relative_to(path).parts else [0]
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


def test_a_file_too_many_is_refused(path):
    (path / "left" / "c" / "7").write_bytes(b"x")
    with pytest.raises(StoreError, match="left/c/7 is not in the manifest"):
        store.read(path)


def test_zarr_itself_checks_the_chunk_it_reads(path):
    import zarr

    shard = path / "left" / "c" / "0" / "0"
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
