"""What each write promises: whole or not at all, one writer, nothing left, and the reason in a line."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from nfk import durable, store
from nfk.checkpoint import RowFile
from nfk.store import StoreError
from tests.faults.disk import CUTS, Fault, FaultyDisk

ROOT = Path(__file__).parents[2]


@pytest.fixture
def disk(tmp_path):
    def make(fault: Fault | None = None) -> FaultyDisk:
        return FaultyDisk(tmp_path / "disk", tmp_path / "aside", fault)

    (tmp_path / "disk").mkdir()
    return make


class TestFiles:
    @pytest.mark.parametrize("kind", CUTS)
    def test_a_file_is_the_old_or_the_new_one_wherever_the_power_goes(self, disk, tmp_path, kind):
        file, seen = tmp_path / "disk/new/file", set()
        for at in range(1, 30):
            durable.write_whole(file, b"old")
            with disk(Fault(at, kind)).in_use() as used:
                durable.write_whole(file, b"new ", b"bytes")
            seen.add(file.read_bytes())
            if not used.met:
                break
        assert seen == {b"old", b"new bytes"}
        assert used.count < 20

    def test_a_short_write_is_gone_on_with(self, disk, tmp_path):
        file = tmp_path / "disk/file"
        with disk(Fault(3, "short")).in_use() as used:
            durable.write_whole(file, bytes(range(100)))
        assert used.met
        assert file.read_bytes() == bytes(range(100))

    def test_a_full_disk_says_what_is_needed_and_leaves_what_was(self, disk, tmp_path):
        file = tmp_path / "disk/file"
        file.write_bytes(b"old")
        with disk(Fault(3, "ENOSPC")).in_use(), pytest.raises(durable.DiskFull) as caught:
            durable.write_whole(file, bytes(5000))
        assert "5,000 bytes more are needed here" in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
        assert {entry.name: entry.read_bytes() for entry in file.parent.iterdir()} == {"file": b"old"}

    def test_two_writers_of_one_file_take_turns(self, tmp_path):
        bodies = [bytes([number]) * 300_000 for number in range(4)]
        threads = [threading.Thread(target=durable.write_whole, args=(tmp_path / "file", body))
                   for body in bodies for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (tmp_path / "file").read_bytes() in bodies
        assert [entry.name for entry in tmp_path.iterdir()] == ["file"]

    def test_what_a_killed_writer_left_is_filled_by_the_next(self, tmp_path):
        (tmp_path / ".file.partial").write_bytes(b"half of something long")
        durable.write_whole(tmp_path / "file", b"whole")
        assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"file": b"whole"}

    def test_locks_are_not_asked_of_file_systems_that_have_none(self, tmp_path, monkeypatch):
        def none(*_: object) -> None:
            raise OSError(errno.ENOLCK, "no locks")

        monkeypatch.setattr("fcntl.flock", none)
        durable.write_whole(tmp_path / "file", b"whole")
        assert (tmp_path / "file").read_bytes() == b"whole"

    def test_other_faults_of_locks_and_writes_are_told(self, tmp_path, monkeypatch):
        def broken(*_: object) -> None:
            raise OSError(errno.EIO, "broken")

        with durable.opened(tmp_path / "file") as file:
            monkeypatch.setattr("fcntl.flock", broken)
            with pytest.raises(OSError, match="broken"):
                durable.hold(file.handle)
            monkeypatch.setattr("os.pwrite", broken)
            with pytest.raises(OSError, match="broken"):
                file.write(b"x", 0)

    def test_a_writer_whose_file_was_just_renamed_begins_anew(self, tmp_path, monkeypatch):
        """It opened the half file of the one before it, which became the file while it waited."""
        hold, waited = durable.hold, []

        def slow(handle: int, *, wait: bool = False) -> bool:
            if not waited:
                waited.append(os.rename(tmp_path / ".file.partial", tmp_path / "file"))
            return hold(handle, wait=wait)

        monkeypatch.setattr(durable, "hold", slow)
        durable.write_whole(tmp_path / "file", b"second")
        assert (tmp_path / "file").read_bytes() == b"second"
        assert len(waited) == 1

    def test_reading_stops_at_the_end(self, tmp_path):
        (tmp_path / "file").write_bytes(b"12345")
        with durable.opened(tmp_path / "file") as file:
            assert file.read(100, 3) == b"45"
            assert file.write(b"", 5) == 5
            rows = np.zeros((2, 2), np.uint8)
            assert file.read_into(rows, 1) and rows.tolist() == [[50, 51], [52, 53]]
            assert not file.read_into(rows, 3)

    def test_copies(self, tmp_path):
        (tmp_path / "a").write_bytes(os.urandom(10_000))
        durable.copy(tmp_path / "a", tmp_path / "b")
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    def test_rows_of_a_scratch_are_synced(self, disk, tmp_path):
        with disk().in_use() as used:
            rows = store.Scratch(tmp_path / "disk/scratch").rows("pass", 4, np.float32)
            rows.write(0, np.ones((2, 4), np.float32))
            rows.sync()
            used.cut_now("dropped")
        assert not (tmp_path / "disk/scratch/pass.rows").exists()  # its name is the checkpoint's to put on disk
        with disk().in_use() as used:
            scratch = store.Scratch(tmp_path / "disk/scratch")
            rows = scratch.rows("pass", 4, np.float32)
            rows.write(0, np.ones((2, 4), np.float32))
            rows.sync()
            scratch.save("pass", {"blocks": np.array([1])})
            used.cut_now("dropped")
        assert RowFile(4, np.float32, tmp_path / "disk/scratch/pass.rows").read(0, 2).tolist() == [[1.0] * 4] * 2

    def test_rows_on_a_full_disk(self, disk, tmp_path):
        rows = RowFile(4, np.float32, tmp_path / "disk/rows")
        with disk(Fault(1, "ENOSPC")).in_use(), pytest.raises(durable.DiskFull, match="32 bytes more"):
            rows.write(0, np.ones((2, 4), np.float32))
        nameless = RowFile(4, np.float32)
        with disk(Fault(1, "ENOSPC")).in_use(), pytest.raises(durable.DiskFull, match="a temporary file: 32 bytes"):
            nameless.write(0, np.ones((2, 4), np.float32))

    def test_an_open_file_is_neither_copied_nor_pickled(self, tmp_path):
        for file, name in ((durable.opened(tmp_path / "rows"), "rows"), (durable.nameless(), "a temporary file")):
            for how in (copy.copy, pickle.dumps):
                with pytest.raises(TypeError, match=f"{name} is open in this process and cannot be copied"):
                    how(file)


class TestFolders:
    @pytest.mark.parametrize("kind", CUTS)
    def test_new_folders_last(self, disk, tmp_path, kind):
        with disk(Fault(100, kind)).in_use() as used:
            durable.make_folders(tmp_path / "disk/a/b/c")
            used.cut_now(kind)
        assert (tmp_path / "disk/a/b/c").is_dir()

    def test_a_folder_that_another_makes_first(self, tmp_path, monkeypatch):
        def beaten(self: object, path: Path) -> None:
            os.mkdir(path)
            raise FileExistsError(path)

        monkeypatch.setattr(durable.Disk, "make_folder", beaten)
        durable.make_folders(tmp_path / "a")
        assert (tmp_path / "a").is_dir()

    def test_links_are_removed_not_followed(self, tmp_path):
        (tmp_path / "kept").mkdir()
        (tmp_path / "kept/file").touch()
        (tmp_path / "tree/below").mkdir(parents=True)
        (tmp_path / "tree/below/link").symlink_to(tmp_path / "kept")
        (tmp_path / "tree/dangling").symlink_to(tmp_path / "nowhere")
        durable.sync_tree(tmp_path / "tree")
        durable.remove_tree(tmp_path / "tree")
        durable.remove_tree(tmp_path / "tree")
        assert [entry.name for entry in tmp_path.iterdir()] == ["kept"]
        assert (tmp_path / "kept/file").exists()


def fill(path: Path, number: float = 1.0) -> None:
    with store.write(path, inputs={}) as writer:
        writer.put("a", np.full(5, number))


class TestStores:
    def test_a_second_writer_is_refused_and_the_first_is_not_disturbed(self, tmp_path):
        path = tmp_path / "s.zarr"
        with store.write(path, inputs={}) as first:
            with pytest.raises(StoreError, match=r"s\.zarr: another process is writing it \(\.s\.zarr\..*\.partial\)"):
                fill(path)
            first.put("a", np.full(5, 2.0))
        assert store.read(path)["a"][0] == 2.0
        fill(path, 3.0)
        assert store.read(path)["a"][0] == 3.0
        assert [entry.name for entry in tmp_path.iterdir()] == ["s.zarr"]

    def test_of_two_that_begin_at_once_the_one_that_is_swept_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr(durable, "hold", lambda handle, wait=False: False)
        with pytest.raises(StoreError, match="another process is writing it; wait"):
            fill(tmp_path / "s.zarr")
        assert list(tmp_path.iterdir()) == []

    def test_a_replacement_whose_rename_fails_leaves_the_former(self, tmp_path, monkeypatch):
        fill(tmp_path / "s.zarr")
        rename = durable.Disk.rename

        def second_fails(self: durable.Disk, old: Path, new: Path) -> None:
            if new.name == "s.zarr" and not old.name.endswith(".old.partial"):
                raise OSError(errno.EIO, "broken")
            rename(self, old, new)

        monkeypatch.setattr(durable.Disk, "rename", second_fails)
        with pytest.raises(OSError, match="broken"):
            fill(tmp_path / "s.zarr", 2.0)
        assert store.read(tmp_path / "s.zarr")["a"][0] == 1.0
        assert [entry.name for entry in tmp_path.iterdir()] == ["s.zarr"]

    def test_a_replacement_of_which_any_operation_fails_leaves_one_of_the_two(self, disk, tmp_path):
        path, seen = tmp_path / "disk/s.zarr", set()
        for at in range(1, 100):
            fill(path)
            with disk(Fault(at, "EIO")).in_use() as used, suppress(OSError):
                fill(path, 2.0)
            seen.add(float(store.read(path)["a"][0]))
            if not used.met:
                break
        assert seen == {1.0, 2.0}
        assert used.count > 30

    def test_half_of_a_replaced_store_never_comes_back(self, tmp_path, monkeypatch):
        """The former store could only be half removed, and then the new one was taken away by hand."""
        path = tmp_path / "s.zarr"
        fill(path)
        remove = durable.Disk.unlink

        def of_former(self: durable.Disk, file: Path) -> None:
            if file.name == "zarr.json":
                raise OSError(errno.EIO, "broken")
            remove(self, file)

        with monkeypatch.context() as patched:
            patched.setattr(durable.Disk, "unlink", of_former)
            fill(path, 2.0)
        assert store.read(path)["a"][0] == 2.0
        path.rename(tmp_path / "elsewhere")
        with pytest.raises(KeyError), store.write(path, inputs={}):
            raise KeyError
        assert not path.exists()

    def test_a_chunk_that_goes_while_the_store_is_open_is_no_fill_value(self, tmp_path):
        path = tmp_path / "s.zarr"
        fill(path)
        found = store.read(path)
        (path / "a/c.0").unlink()
        with pytest.raises(StoreError, match=r"s\.zarr: array a, chunk 0: a/c.0 is missing"):
            found["a"][:]

    def test_a_folder_of_anything_is_whole_or_absent(self, tmp_path):
        with store.whole_folder(tmp_path / "folder") as building:
            durable.write(building / "file", b"bytes")
            assert not (tmp_path / "folder").exists()
        assert (tmp_path / "folder/file").read_bytes() == b"bytes"
        before = store.tree_digest(tmp_path / "folder")
        with pytest.raises(KeyError), store.whole_folder(tmp_path / "folder") as building:
            durable.write(building / "file", b"others")
            raise KeyError
        assert store.tree_digest(tmp_path / "folder") == before

    def test_an_array_that_is_not_there(self, tmp_path):
        fill(tmp_path / "s.zarr")
        with pytest.raises(StoreError, match="no array 'b'; there are a"):
            store.read(tmp_path / "s.zarr")["b"]

    def test_a_store_of_a_later_format(self, tmp_path, monkeypatch):
        fill(tmp_path / "s.zarr")
        monkeypatch.setattr(store, "FORMAT", 0)
        with pytest.raises(StoreError, match="written in store format 1, this nfk reads 0"):
            store.read(tmp_path / "s.zarr")


class TestZarr:
    """Whatever Zarr does to a folder being filled is an operation of the one module, as it is of `LocalStore`."""

    def test_each_change(self, disk, tmp_path):
        from zarr.core.buffer import cpu, default_buffer_prototype
        from zarr.core.sync import sync

        from nfk.zarr_folder import FilledFolder

        folder = FilledFolder(tmp_path / "disk")
        one, other = (cpu.Buffer.from_bytes(body) for body in (b"one", b"other"))
        with disk().in_use() as used:
            sync(folder.set("a/b", one))
            sync(folder.set_if_not_exists("a/b", other))
            sync(folder.set_if_not_exists("a/c", other))
            assert sync(folder.get("a/b", default_buffer_prototype())).to_bytes() == b"one"
            assert used.count == 5
            sync(folder.delete("a/b"))
            sync(folder.delete_dir("a"))
            sync(folder.set("d", one))
            sync(folder.clear())
        assert [line.partition(" ")[0] for line in used.told] == [
            "make_folder", "create", "write", "create", "write", "unlink", "unlink", "remove_folder", "create", "write",
            "unlink"]
        assert list((tmp_path / "disk").iterdir()) == []


REAL = """\
import os, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from pathlib import Path
from nfk import durable, store
class Ending(durable.Disk):
    count = 0
for name in ("create", "write", "truncate", "sync", "rename", "unlink", "make_folder", "remove_folder"):
    def step(self, *arguments, name=name):
        done = getattr(durable.Disk, name)(self, *arguments)
        Ending.count += 1
        if Ending.count == int(os.environ["AT"]):
            os._exit(9)
        return done
    setattr(Ending, name, step)
for at in range(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])):
    if (child := os.fork()) == 0:
        os.environ["AT"] = str(at)
        durable.disk = Ending()
        with store.write(Path("s.zarr"), inputs={}) as writer:
            writer.put("a", np.full(5, 2.0))
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        found = store.read(Path("s.zarr"))["a"][0]
    except store.StoreError as error:
        found = "absent" if "no such store" in str(error) else str(error)
    with store.write(Path("s.zarr"), inputs={}) as writer:
        writer.put("a", np.full(5, 1.0))
    print(at, status, found, ",".join(sorted(os.listdir("."))), flush=True)
"""


def test_a_process_that_really_ends_leaves_the_old_store_or_the_new(tmp_path):
    """What the simulated cuts say (`kept`), by `os._exit` within each third operation of a replacement."""
    fill(tmp_path / "s.zarr")
    ended = subprocess.run([sys.executable, "-c", REAL, str(ROOT), "1", "60", "3"], cwd=tmp_path, text=True,
                           timeout=300, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr
    rows = [line.split() for line in ended.stdout.splitlines()]
    assert {row[1] for row in rows} == {"9", "0"}
    assert {row[2] for row in rows} - {"absent"} == {"1.0", "2.0"}
    assert all(row[3] == "s.zarr" for row in rows)
