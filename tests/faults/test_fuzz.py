"""Files made to do harm, by idea: none runs, all are refused in one line. What was found by chance, too."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import pickletools
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nfk.data import idx
from nfk.data.image_set import DataError
from nfk.models.torch_weights import TorchWeightsError
from nfk.one_line import one_line
from nfk.params import ParamsError
from nfk.store import MARKER, StoreError
from tests.faults import fuzz, fuzz_changes, fuzz_short
from tests.faults.fuzz_readers import READERS


def refused(tmp_path: Path, reader: str, files: dict[str, bytes], error: type[Exception], message: str) -> None:
    fuzz.write(tmp_path, files)
    with pytest.raises(error, match=message) as refusal:
        READERS[reader].read(tmp_path)
    assert str(refusal.value).isprintable()


class Runs:
    def __reduce__(self):
        import os

        return os.system, ("touch executed",)


def calls(module: str, name: str, argument: str, protocol: int) -> bytes:
    """A pickle that calls MODULE.NAME(ARGUMENT), by each of the ways there are to name it."""
    return {
        0: f"c{module}\n{name}\n(S'{argument}'\ntR.",
        1: f"(S'{argument}'\ni{module}\n{name}\n.",
        2: f"\x80\x02c{module}\n{name}\n(X{chr(len(argument))}\0\0\0{argument}tR.",
        4: f"\x80\x04\x8c{chr(len(module))}{module}\x8c{chr(len(name))}{name}\x93"
           f"\x8c{chr(len(argument))}{argument}\x85R.",
    }[protocol].encode("latin1")


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
@pytest.mark.parametrize(("module", "name"), [
    ("os", "system"), ("posix", "system"), ("subprocess", "Popen"), ("builtins", "eval"), ("builtins", "exec"),
    ("builtins", "__import__"), ("builtins", "getattr"), ("importlib", "import_module"), ("runpy", "_run_code"),
    ("webbrowser", "open"), ("socket", "create_connection"), ("pickle", "loads"), ("numpy", "load"),
    ("numpy.testing._private.utils", "runstring"), ("pip", "main"), ("sys", "exit"), ("operator", "attrgetter"),
    ("numpy.core.multiarray", "frombuffer"), ("_codecs", "lookup"), ("copyreg", "_reconstructor"),
])
def test_pickles_that_call_are_refused_by_name(tmp_path, monkeypatch, module, name, protocol):
    monkeypatch.chdir(tmp_path)
    body = calls(module, name, "touch executed", protocol)
    pickletools.dis(body, io.StringIO())  # it is one
    refused(tmp_path, "cifar-python", {"data_batch_1": body}, DataError, rf"asks for {module}.{name}|asks for .*Key")
    assert not (tmp_path / "executed").exists()


def _npz(arrays: dict[str, bytes]) -> dict[str, bytes]:
    return READERS["npz"].build(arrays)


def _npy(header: bytes, content: bytes = b"", version: bytes = b"\1\0") -> bytes:
    length = struct.pack("<H" if version == b"\1\0" else "<I", len(header))
    return b"\x93NUMPY" + version + length + header + content


def _objects() -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([Runs()] * 4, dtype=object), allow_pickle=True)
    return out.getvalue()


LABELS = {"y_train.npy": _npy(b"{'descr': '<i8', 'fortran_order': False, 'shape': (4,)}", bytes(32))}


@pytest.mark.parametrize(("images", "message"), [
    (_objects(), "pickled objects, which are never loaded"),
    (_npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (4, 2, 2)}", pickle.dumps(Runs())), "pickled objects"),
    (_npy(b"{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (4, 2, 2)}"), "pickled objects"),
    (_npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (-4, 2, 2)}"), "key 'x_train'"),
    (_npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (4, 2, 2305843009213693952)}"), "headers announce"),
    (_npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (4, 2, 2), 'x': __import__('os')}"), "not a whole .npz"),
    (_npy(b"{'descr': ("), "not a whole .npz"),  # numpy's own reader raises a TokenError
    (_npy(b"(" * 9000), "not a whole .npz"),
    (b"\x93NUMPY\2\0" + struct.pack("<I", 2**31) + b"{", "a header of 2,147,483,648 bytes"),
    (_npy(b" " * 60_000, version=b"\2\0"), "a header of 60,000 bytes"),
])
def test_arrays_of_no_kind_that_is_read(tmp_path, monkeypatch, images, message):
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, "npz", _npz({"x_train.npy": images, **LABELS}), DataError, message)
    assert not (tmp_path / "executed").exists()


def test_labels_that_unpack_without_end_are_not_unpacked(tmp_path):
    bomb = _npy(b"{'descr': '<i8', 'fortran_order': False, 'shape': (1,)}", bytes(50_000_000))
    images = _npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (1, 2, 2)}", bytes(4))
    refused(tmp_path, "npz", _npz({"x_train.npy": images, "y_train.npy": bomb}), DataError, "goes on after its 8 bytes")


@pytest.mark.parametrize("body", [
    b"\x80\x02}q\0r\xff\xff\xff\x7f.", b"}p2147483647\n.", b"\x80\x02}q\xff.",
])
def test_a_place_in_the_memo_beyond_all_others_is_refused(tmp_path, body):
    """pickle makes room for all places up to it: 34 GB by ten bytes."""
    refused(tmp_path, "cifar-python", {"data_batch_1": body}, DataError, "keeps something at place")


def test_text_asked_for_again_and_again_is_refused(tmp_path):
    text = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + b"q\0"
    encode = b"c_codecs\nencode\nq\1(h\0U\6latin1tR0"
    again = b"h\1(h\0U\6latin1tR0" * 300
    refused(tmp_path, "cifar-python", {"data_batch_1": b"\x80\x02" + text + b"0" + encode + again + b"}."}, DataError,
            "asks for more than 256 MiB of text")


def test_class_names_without_bound_are_refused(tmp_path):
    batch = {"data_batch_1": READERS["cifar-python"].seeds()[1]["data_batch_1"]}
    for names in ([b"a" * 2000], [b"a"] * 70_000, [], "abc", [1]):
        refused(tmp_path, "cifar-python", {**batch, "batches.meta": pickle.dumps({b"label_names": names}, 2)},
                DataError, "must be a list of class names")


def _mat(*elements: bytes) -> dict[str, bytes]:
    seed = READERS["matlab"].seeds()[0]["train_32x32.mat"]
    return {"train_32x32.mat": seed[:128] + b"".join(elements)}


@pytest.mark.parametrize("position", range(128, 232))
def test_no_byte_of_a_matlab_variable_ends_the_process(tmp_path, position):
    """SciPy's reader takes a class and a type as an index, unseen: another value of it is a segmentation fault."""
    seed = bytearray(READERS["matlab"].seeds()[0]["train_32x32.mat"])
    for value in (0, 1, 17, 18, 127, 128, 255):
        seed[position] = value
        fuzz.write(tmp_path, {"train_32x32.mat": bytes(seed)})
        how, said = fuzz.fault(READERS["matlab"], tmp_path)
        assert how in ("read", "refused"), said


def test_matlab_objects_are_not_looked_into(tmp_path):
    refused(tmp_path, "matlab", _mat(struct.pack("<II", 14, 2**32 - 8)), DataError, "goes beyond the end")
    refused(tmp_path, "matlab", _mat(struct.pack("<II", 15, 8) + b"\x78\x9c" + bytes(6)), DataError,
            "not a whole MATLAB")
    refused(tmp_path, "matlab", _mat(struct.pack("<IIIIII", 14, 16, 6, 8, 17, 0)), DataError, "keys: none")


def _safetensors(header: object, content: bytes = b"", length: int | None = None) -> dict[str, bytes]:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return {"weights.safetensors": struct.pack("<Q", len(text) if length is None else length) + text + content}


def _tensor(begin: int, end: int, shape: tuple[int, ...] = (2,), dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize("files", [
    _safetensors({}, length=2**63), _safetensors({}, length=2**64 - 1), _safetensors({}, length=100_000_001),
    _safetensors({}, length=3), {"weights.safetensors": b""}, {"weights.safetensors": b"\1"}, _safetensors(b"null"),
    _safetensors(b"[" * 5000), _safetensors(b"\xff\xfe"), _safetensors(b'{"a": 1}'),
    _safetensors({"a": _tensor(0, 8), "b": _tensor(4, 12)}, bytes(12)),  # one on another
    _safetensors({"a": _tensor(0, 8), "b": _tensor(12, 20)}, bytes(20)),  # a hole
    _safetensors({"a": _tensor(8, 0)}, bytes(8)), _safetensors({"a": _tensor(0, 8)}, bytes(7)),
    _safetensors({"a": _tensor(0, 8)}, bytes(9)), _safetensors({"a": _tensor(0, 2**63)}, bytes(8)),
    _safetensors({"a": _tensor(0, 8, (2**62, 2**62))}, bytes(8)), _safetensors({"a": _tensor(0, 8, (3,))}, bytes(8)),
    _safetensors({"a": _tensor(-8, 0)}, bytes(8)), _safetensors({"a": _tensor(0, 8, dtype="O")}, bytes(8)),
    _safetensors({"a": _tensor(0, 8, dtype="I32")}, bytes(8)),
    _safetensors({"a\n\x1b[2J": _tensor(0, 8, (3,))}, bytes(8)),
])
def test_weights_with_absurd_headers_are_refused(tmp_path, files):
    refused(tmp_path, "torch", files, TorchWeightsError, "safetensors|not floats")


def test_weights_with_a_name_twice_never_give_two(tmp_path):
    text = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},' \
        b'"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}'
    refused(tmp_path, "torch", _safetensors(text, bytes(16)), TorchWeightsError, "not safetensors")


@pytest.mark.parametrize(("text", "message"), [
    ("seed: !!python/object/apply:os.system ['touch executed']", "not valid YAML|seed"),
    ("seed: !!python/name:os.system", "not valid YAML|seed"),
    ("families: &a {a: *a}", "more than 100,000 values or 40 levels"),
    ("&a [*a]", "expected sections"),
    ("a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nfamilies: *c", "unknown key"),
    ("a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)), "more than 100,000"),
    ("[" * 500, "not valid YAML|expected sections"),
    ("a: [{" * 251, r"502 \[ and \{, at most 500; write fewer"),  # the parser took 6 s for 3,000
    ("#" * 65537, "65,537 characters, at most 65,536; write fewer"),
    ("seed: 1\nseed: 2", "not valid YAML"),
    ("? {a: 1}\n: 2", "not valid YAML|params.yaml"),
    ("1: 2\nfamilies: {gan: {model: dcgan}}", "key 1 is no text"),
])
def test_parameters_that_are_a_program_are_refused(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamsError, match=message) as refusal:
        READERS["params"].read(tmp_path)
    assert all(line.isprintable() for line in str(refusal.value).split("\n"))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("change", [
    {"shape": [10**12, 3]}, {"data_type": "float64"}, {"codecs": []}, {"chunk_grid": {}}, {"node_type": "group"},
    {"codecs": [{"name": "numcodecs.pickle", "configuration": {}}]}, {"data_type": "object"}, {"fill_value": "x"},
    {"zarr_format": 2}, {"codecs": [{"name": "no such", "configuration": {}}]}, {"shape": [-1, 3]}, {"shape": []},
])
def test_a_store_that_agrees_with_itself_and_is_none(tmp_path, change):
    parts = READERS["store-sealed"].seeds()[0]
    metadata = json.loads(parts["left/zarr.json"])
    refused(tmp_path, "store-sealed", READERS["store-sealed"].build(
        {**parts, "left/zarr.json": json.dumps({**metadata, **change}).encode()}), StoreError, str(tmp_path))


@pytest.mark.parametrize("entry", [
    {"files": {"../outside": [1, "0" * 64]}}, {"files": {"/etc/hostname": [1, "0" * 64]}}, {"files": {"a": 1}},
    {"files": []}, {"arrays": {"../x": {}}}, {"arrays": None}, {"inputs": 1},
])
def test_a_manifest_that_leads_out_of_its_store_is_damaged(tmp_path, entry):
    from nfk import store

    parts = READERS["store"].seeds()[0]
    manifest = json.loads(parts[MARKER]) | entry
    manifest.pop("digest")
    text = json.dumps({**manifest, "digest": store.json_digest(manifest)}).encode()
    refused(tmp_path, "store", {**parts, MARKER: text}, StoreError, f"{MARKER} is damaged")


def test_every_byte_of_a_parquet_footer_may_be_wrong(tmp_path):
    """A column's name that is no UTF-8, columns of fewer rows than others, or of none."""
    (name, whole), = READERS["parquet"].seeds()[0].items()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for at in range(footer, len(whole) - 8):
        for value in (0, 2, 128):
            fuzz.write(tmp_path, {name: whole[:at] + bytes([value]) + whole[at + 1:]})
            how, said = fuzz.fault(READERS["parquet"], tmp_path)
            assert how in ("read", "refused"), f"byte {at} is {value}: {how}: {said}"


def test_names_from_outside_do_not_reach_a_terminal(tmp_path):
    for name in ("cat\n/1.png", "\x1b]0;title\x07/1.png", "cat/\u202e1.png", "cat/1\r.png"):
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as out:
            out.writestr(name, b"no image")
        refused(tmp_path, "zip", {"set.zip": archive.getvalue()}, DataError, "is no PNG")


def test_labels_of_a_gzip_bomb_are_refused_before_they_are_unpacked(tmp_path):
    count = 2**32 - 1
    files = {"train-images-idx3-ubyte": b"\0\0\x08\3" + struct.pack(">III", count, 2**31, 2**31),
             "train-labels-idx1-ubyte": gzip.compress(b"\0\0\x08\1" + struct.pack(">I", count) + bytes(1000))}
    refused(tmp_path, "idx", files, DataError, "needs|ends after|headers announce")


def test_zips_whose_directory_means_nothing_are_refused(tmp_path):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("cat//1.png", b"no image")  # not as it is written, once it is made plain
    body = archive.getvalue()
    refused(tmp_path, "zip", {"set.zip": body}, DataError, "is no PNG")
    at = body.index(b"PK\1\2")
    for version in (0xFF, 200):
        refused(tmp_path, "zip", {"set.zip": body[:at + 6] + bytes([version]) + body[at + 7:]}, DataError,
                "not a whole archive")


def test_metadata_of_an_index_that_is_no_text(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from nfk.service import neighbours

    seed = pq.read_table(pa.BufferReader(READERS["index"].seeds()[0]["index.parquet"]))
    pq.write_table(seed.replace_schema_metadata({b"digest.data": b"\x89\xff"}), tmp_path / "index.parquet")
    _, _, made_from = neighbours._parquet(tmp_path / "index.parquet")
    assert made_from == {"data": "\ufffd\ufffd"}


def test_one_line():
    assert one_line("a × b") == "a × b"
    assert one_line("a\nb\x1b[0m\udcff") == "a\\nb\\x1b[0m\\udcff"
    assert len(one_line("a" * 10_000)) < 2100
    assert one_line("a" * 10_000 + "; remedy").endswith("; remedy")


def test_the_guard_sees_each_of_them(tmp_path):
    """In a process of its own: a hook stays."""
    import subprocess
    import sys

    program = """
import os, sys
from pathlib import Path
from tests.faults.fuzz_guard import Forbidden, Guard, limit_memory, wants_too_much
guard = Guard(Path(sys.argv[1]))
tries = {"exec": lambda: exec("1"), "eval": lambda: eval("1"), "system": lambda: os.system("true"),
         "open": lambda: open(sys.argv[1] + "-outside", "w"), "mkdir": lambda: os.mkdir(sys.argv[1] + "-outside"),
         "pickle": lambda: __import__("pickle").loads(b"cos\\nsystem\\n."),
         "process": lambda: __import__("subprocess").run(["true"])}
for name, attempt in tries.items():
    try:
        with guard.armed():
            attempt()
        print(name, "was not seen")
    except Forbidden:
        pass
with guard.armed():
    open(sys.argv[1] + "/inside", "w").close()
    open(os.devnull, "w").close()
assert len(guard.seen) == len(tries), guard.seen
limit_memory()
try:
    bytearray(2 << 30)
    print("no bound")
except MemoryError as error:
    assert wants_too_much(error)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True,
                          cwd=Path(fuzz.__file__).parents[2])
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_changes_reach_every_part():
    import random

    reader = READERS["npz"]
    seeds = reader.seeds()
    seen = {tuple(sorted(fuzz_changes.changed(random.Random(number), seeds[0], seeds, reader)))
            for number in range(200)}
    assert len(seen) > 10  # names too


def test_a_case_is_the_same_after_its_way_through_the_engine():
    for reader in READERS.values():
        for parts in reader.seeds():
            text = fuzz_changes.framed(parts)
            assert fuzz_changes.unframed(text) == parts
            fuzz_changes.unframed(text[:-1])  # as far as it goes
    assert fuzz_changes.unframed(b"") == fuzz_changes.unframed(b"12345") == {}


def test_every_reader_is_in_a_part_of_the_suite():
    assert [*fuzz_short.ARRAYS, *fuzz_short.ARCHIVES, *fuzz_short.OURS] == list(READERS)


# --- what 10 minutes a reader found ---


def test_a_zip_with_a_file_without_a_name_is_refused(tmp_path):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr(zipfile.ZipInfo("\0/1.png"), b"none")  # a name ends at a NUL
    refused(tmp_path, "zip", {"set.zip": archive.getvalue()}, DataError, "a file without a name")


def test_a_zip_whose_member_is_nowhere_is_refused(tmp_path, monkeypatch):
    files = READERS["zip"].build(READERS["zip"].seeds()[0])

    def nowhere(*_, **__):
        raise OSError(22, "Invalid argument")  # of a seek beyond what a file can have

    monkeypatch.setattr(zipfile.ZipFile, "open", nowhere)
    refused(tmp_path, "zip", files, DataError, "not a whole archive.*Invalid argument")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_that_announces_more_pixels_than_anyone_has_is_refused(tmp_path):
    body = io.BytesIO()
    Image.new("RGB", (6, 5)).save(body, "PNG")
    png = bytearray(body.getvalue())
    png[16:24] = struct.pack(">II", 6, 16_711_685)
    png[29:33] = struct.pack(">I", zlib.crc32(bytes(png[12:29])))
    refused(tmp_path, "png", {"cat.png": bytes(png)}, DataError, "has 16,711,685 × 6 pixels, at most 89,478,485")


def test_ids_that_are_no_text_are_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from nfk.service import neighbours

    seed = pq.read_table(pa.BufferReader(READERS["index"].seeds()[0]["index.parquet"]))
    ids = pa.array([b"\x80"] * len(seed), pa.binary()).view(pa.string())
    out = io.BytesIO()
    pq.write_table(seed.set_column(seed.column_names.index("id"), "id", ids), out)
    fuzz.write(tmp_path, {"index.parquet": out.getvalue()})
    with pytest.raises(neighbours.IndexFault, match="no Parquet of the columns id and embedding"):
        neighbours._parquet(tmp_path / "index.parquet")


def test_an_index_of_no_rows_or_of_words_is_told(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from nfk.service import neighbours

    path = tmp_path / "index.parquet"
    pq.write_table(pa.table({"id": pa.array([], pa.string()), "embedding": pa.array([], pa.list_(pa.float32(), 4))}),
                   path)
    ids, rows, _ = neighbours._parquet(path)
    assert ids == [] and rows.shape == (0, 4)
    pq.write_table(pa.table({"id": ["a"], "embedding": pa.array([["x", "y"]], pa.list_(pa.string(), 2))}), path)
    with pytest.raises(neighbours.IndexFault, match="could not convert string"):
        neighbours._parquet(path)


def test_rows_that_memory_does_not_hold_are_refused(tmp_path, monkeypatch):
    class Endless(io.BytesIO):
        def read(self, size=-1):
            if size > 1 << 20:
                raise MemoryError
            return super().read(size)

    monkeypatch.setattr(idx, "_open", lambda file: Endless(b"\0\0\x08\x03" + bytes(12)))
    with pytest.raises(DataError, match="no memory for rows of 4,294,967,296 bytes, as its header announces"):
        next(idx._contents(tmp_path / "images", 1 << 32, 4))
