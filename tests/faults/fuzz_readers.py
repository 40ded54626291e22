"""Every reader of a file that may come from outside, with small valid files to begin from, made here.

A case is `Parts`, names and bytes. `build` makes the files of them: the parts themselves, or what holds them (a zip, a
store with its manifest), so that damage lies behind the checksums too, where a sender with intent would put it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pickle
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

Parts = dict[str, bytes]


class Reader(NamedTuple):
    name: str
    seeds: Callable[[], list[Parts]]
    read: Callable[[Path], object]
    """reads all of the file or folder; raises only `errors`, each of one line"""
    errors: Callable[[], tuple[type[Exception], ...]]
    words: tuple[bytes, ...] = ()
    """of the format, put in at random"""
    build: Callable[[Parts], Parts] = dict
    renames: bool = False
    """names of parts are a stranger's too"""


# --- seeds ---

_RNG = np.random.default_rng(0)
_PIXELS = _RNG.integers(0, 256, (4, 5, 6)).astype(np.uint8)
_COLOUR = _RNG.integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
_LABELS = np.asarray([0, 1, 2, 1])


def _idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def _idx_parts(zipped: bool = False) -> list[Parts]:
    ending = ".gz" if zipped else ""
    return [{f"train-images-idx3-ubyte{ending}": _idx(_PIXELS),
             f"train-labels-idx1-ubyte{ending}": _idx(_LABELS.astype(np.uint8))}]


def _cifar_binary() -> list[Parts]:
    records = b"".join(bytes([label]) + image.transpose(2, 0, 1).tobytes()
                       for label, image in zip(_LABELS, _COLOUR, strict=True))
    return [{"data_batch_1.bin": records, "batches.meta.txt": b"cat\ndog\neel\n"}, {"data_batch_1.bin": records}]


def _cifar_python() -> list[Parts]:
    planes = _COLOUR.transpose(0, 3, 1, 2).reshape(4, -1)
    names = pickle.dumps({b"label_names": [b"cat", b"dog", b"eel"]}, 2)
    return [{"data_batch_1": pickle.dumps({b"data": planes, b"labels": _LABELS.tolist()}, protocol),
             "batches.meta": names} for protocol in (0, 2, 4)]


def _matlab() -> list[Parts]:
    from scipy.io import savemat

    found = []
    for compressed in (False, True):
        out = io.BytesIO()
        savemat(out, {"X": _COLOUR[:, :4, :5].transpose(1, 2, 3, 0), "y": _LABELS[:, None].astype(np.uint8)},
                do_compression=compressed)
        found.append({"train_32x32.mat": out.getvalue()})
    return found


def _arrays() -> list[Parts]:
    def npy(array: np.ndarray) -> bytes:
        out = io.BytesIO()
        np.save(out, array)
        return out.getvalue()

    return [{"x_train.npy": npy(_PIXELS), "y_train.npy": npy(_LABELS), "x_test.npy": npy(_PIXELS[:2]),
             "y_test.npy": npy(_LABELS[:2])}, {"images.npy": npy(_COLOUR[:, :3, :3]), "labels.npy": npy(_LABELS)}]


def _parquet() -> list[Parts]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = []
    for options in ({}, {"compression": "none", "use_dictionary": False, "write_page_checksum": True}):
        table = pa.table({"image": [{"bytes": _image("PNG", row), "path": None} for row in range(4)],
                          "label": _LABELS.tolist()})
        table = table.replace_schema_metadata({"huggingface": json.dumps(
            {"info": {"features": {"label": {"names": ["cat", "dog", "eel"]}}}})})
        out = pa.BufferOutputStream()
        pq.write_table(table, out, **options)
        found.append({"train.parquet": out.getvalue().to_pybytes()})
    return found


def _image(kind: str, row: int = 0, mode: str | None = None) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    image = Image.fromarray(_PIXELS[row])
    (image if mode is None else image.convert(mode)).save(out, kind)
    return out.getvalue()


def _images() -> list[Parts]:
    from PIL import Image

    turned, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(_PIXELS[0]).save(turned, "JPEG", exif=exif)
    kinds = [("PNG", None), ("PNG", "RGB"), ("PNG", "P"), ("JPEG", None), ("JPEG", "RGB"), ("WEBP", None),
             ("BMP", None), ("BMP", "1")]
    return [*({"cat.png": _image(kind, mode=mode)} for kind, mode in kinds), {"cat.png": turned.getvalue()}]


def _folders() -> list[Parts]:
    return [{f"{name}/{row}.png": _image("PNG", row) for row, name in enumerate(("cat", "cat", "dog", "eel"))},
            {f"set/{part}/cat/{row}.png": _image("PNG", row) for row, part in enumerate(("train", "train", "test"))}]


def _written(folder: Path) -> Parts:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def _store() -> list[Parts]:
    from nfk import store

    with tempfile.TemporaryDirectory() as folder:
        with store.write(Path(folder) / "one.zarr", inputs={"data": "0" * 64}) as writer:
            writer.put("left", np.arange(12, dtype=np.float32).reshape(4, 3))
            writer.put("images", _PIXELS[..., None], compress=True)
            writer.attributes["rank"] = 3
        return [_written(Path(folder) / "one.zarr")]


@cache
def _network() -> Parts:
    import jax

    from nfk.family_params import MODEL_PARAMS
    from nfk.models import checkpoint
    from nfk.models.families import MODELS

    config = MODEL_PARAMS["mlp"](model="mlp", hidden=2, epochs=1)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(MODELS["mlp"].initial(config, (2, 2, 1), 2, jax.random.key(0)), Path(folder))
        return _written(Path(folder))


def _torch() -> list[Parts]:
    from safetensors.numpy import save

    return [{"weights.safetensors": save({"fc1.weight": np.ones((2, 4), np.float32), "fc1.bias": np.ones(2, np.float32),
                                          "fc2.weight": np.ones((2, 2), np.float64)})}]


def _params() -> list[Parts]:
    text = (Path(__file__).parents[2] / "params.yaml").read_bytes()
    return [{"params.yaml": text}, {"params.yaml": (
        b"families: {a: {model: mlp}}\nstudies: {n: {study: noise, family: a}}\ntheta: {a: {include: ['x.*']}}\n")}]


def _requests() -> list[Parts]:
    picture = _image("PNG")
    form = (b'--b\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
            + picture + b"\r\n--b--\r\n")
    return [{"type": b"multipart/form-data; boundary=b", "body": form}, {"type": b"image/png", "body": picture},
            {"type": b"application/json", "body": json.dumps({"images": np.zeros((2, 5, 6)).tolist()}).encode()}]


def _index() -> list[Parts]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(12.0), pa.float32()), 3)
    table = pa.table({"id": ["a", "b", "c", "d"], "embedding": rows})
    out = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({"digest.data": "0" * 64}), out)
    return [{"index.parquet": out.getvalue().to_pybytes()}]


# --- what holds the parts ---


def _gzipped(parts: Parts) -> Parts:
    return {name: gzip.compress(body, 1, mtime=0) for name, body in parts.items()}


def _zipped(file: str) -> Callable[[Parts], Parts]:
    def build(parts: Parts) -> Parts:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, body in parts.items():
                archive.writestr(zipfile.ZipInfo(name or "_"), body)
        return {file: out.getvalue()}

    return build


def _tarred(file: str, mode: str) -> Callable[[Parts], Parts]:
    def build(parts: Parts) -> Parts:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode=mode, compresslevel=1) if "gz" in mode else tarfile.open(
                fileobj=out, mode=mode) as archive:
            for name, body in parts.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(body)
                archive.addfile(entry, io.BytesIO(body))
        return {file: out.getvalue()}

    return build


def _sealed_chunks(parts: Parts) -> Parts:
    """PNG files with each chunk's CRC-32 made right."""
    found = {}
    for name, body in parts.items():
        out, at = bytearray(body[:8]), 8
        while at + 12 <= len(body):
            length = struct.unpack(">I", body[at:at + 4])[0]
            chunk = body[at + 4:at + 8 + length]
            if at + 12 + length > len(body):
                break
            out += body[at:at + 4] + chunk + struct.pack(">I", zlib.crc32(chunk))
            at += 12 + length
        found[name] = bytes(out) + body[at:]
    return found


def _sealed_store(parts: Parts) -> Parts:
    """A store whose manifest agrees with its files, whatever is in them."""
    from nfk import store

    files = {name: body for name, body in parts.items() if name != store.MARKER}
    try:
        manifest = json.loads(parts[store.MARKER])
        manifest["files"] = {name: [len(body), hashlib.sha256(body).hexdigest()] for name, body in files.items()}
        manifest.pop("digest", None)
        manifest["digest"] = store.json_digest(manifest)
        return {**files, store.MARKER: json.dumps(manifest).encode()}
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return parts


def _sealed_network(parts: Parts) -> Parts:
    """A card that has its weights' SHA-256, whatever is in them."""
    from nfk.models import checkpoint

    try:
        card = json.loads(parts[checkpoint.CARD])
        card["sha256"] = hashlib.sha256(parts[checkpoint.WEIGHTS]).hexdigest()
        return {**parts, checkpoint.CARD: json.dumps(card).encode()}
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return parts


# --- reading ---


def _read_images(folder: Path) -> None:
    from nfk.data.read import read

    files = list(folder.iterdir())
    read(str(files[0] if len(files) == 1 and not files[0].is_dir() and files[0].suffix != ".png" else folder))


def _read_store(folder: Path) -> None:
    from nfk import store

    found = store.read(folder)
    for name in found.arrays:
        found[name][...]


def _read_network(folder: Path) -> None:
    from nfk.models import checkpoint

    checkpoint.load(folder)


def _read_torch(folder: Path) -> None:
    from nfk.models import torch_weights

    file = folder / "weights.safetensors"
    torch_weights._read(file, hashlib.sha256(file.read_bytes()).hexdigest())


def _read_params(folder: Path) -> None:
    from nfk import params

    params.load(folder / "params.yaml")


def _read_request(folder: Path) -> None:
    from nfk.service import images

    body, kind = ((folder / name).read_bytes() if (folder / name).exists() else b"" for name in ("body", "type"))
    for resize in (False, True):
        images.read(body, kind.decode("latin-1"), (5, 6, 1), resize=resize)


def _read_index(folder: Path) -> None:
    from types import SimpleNamespace

    from nfk.service import neighbours

    neighbours.read(folder / "index.parquet", SimpleNamespace(  # type: ignore[arg-type]
        inputs={"data": "0" * 64}, rank=3, settings={"scaling": "none"}))


def _of_data() -> tuple[type[Exception], ...]:
    from nfk.data.image_set import DataError

    return (DataError,)


def _of_stores() -> tuple[type[Exception], ...]:
    from nfk.store import StoreError

    return (StoreError,)


def _of_networks() -> tuple[type[Exception], ...]:
    from nfk.models.checkpoint import ModelError
    from nfk.models.custom import CustomError

    return (ModelError, CustomError)


def _of_torch() -> tuple[type[Exception], ...]:
    from nfk.models.torch_weights import TorchWeightsError

    return (TorchWeightsError,)


def _of_params() -> tuple[type[Exception], ...]:
    from nfk.params import ParamsError

    return (ParamsError,)


def _of_requests() -> tuple[type[Exception], ...]:
    from nfk.service.images import Refused

    return (Refused,)


def _of_indices() -> tuple[type[Exception], ...]:
    from nfk.service.neighbours import IndexFault

    return (IndexFault, *_of_stores())


_NPY = (b"\x93NUMPY", b"\x01\x00", b"\x03\x00", b"'descr': '|O'", b"'fortran_order': True", b"'shape': (", b"<u8",
        b"(-1,", b"9" * 5000)
_JSON = (b"null", b"[]", b"{}", b"-1", b"1e999", b'"a"', b"NaN", b"[" * 3000, b"\xff", b'"\\n"', b"true", b"9" * 400)
_NAMES = (b"../", b"/", b"\\", b"\n", b"\0", b"C:", b"\x1b[2J", b".", b"a" * 300, "é".encode(), b".png", b"train/")
_PICKLE = (b"cos\nsystem\n", b"R.", b"\x80\x04", b"(S'id'\ntR.", b"cnumpy\nndarray\n", b"\x8c\x02os", b"\x93", b"i",
           b"c__builtin__\neval\n", b"b.", b"P1\n", b"Q", b"}", b"]", b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
           b"\x8e\xff\xff\xff\xff\xff\xff\xff\x00", b"2" * 50, b"\x94h\x00\x86" * 40)

READERS = {reader.name: reader for reader in (
    Reader("idx", _idx_parts, _read_images, _of_data, (b"\0\0\x08\x01", b"\0\0\x08\x03", b"\x1f\x8b")),
    Reader("idx-gzip", lambda: _idx_parts(True), _read_images, _of_data, build=_gzipped),
    Reader("cifar-binary", _cifar_binary, _read_images, _of_data, (b"\n", b"\xff")),
    Reader("cifar-python", _cifar_python, _read_images, _of_data, _PICKLE),
    Reader("matlab", _matlab, _read_images, _of_data, (
        b"\x0e\0\0\0", b"\x0f\0\0\0", b"\x01\0\0\0", b"\x11\0\0\0", b"\x06\0\0\0", b"MI", b"IM", b"\x10\0", b"\x05\0")),
    Reader("npz", _arrays, _read_images, _of_data, _NPY, _zipped("set.npz"), renames=True),
    Reader("npz-bytes", lambda: [_zipped("set.npz")(seed) for seed in _arrays()], _read_images, _of_data,
           (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", *_NPY)),
    Reader("parquet", _parquet, _read_images, _of_data, (b"PAR1", b"bytes", b"label", b"huggingface", b"\x15", *_JSON)),
    Reader("zip", _folders, _read_images, _of_data, _NAMES, _zipped("set.zip"), renames=True),
    Reader("zip-bytes", lambda: [_zipped("set.zip")(seed) for seed in _folders()], _read_images, _of_data,
           (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"\x0e\0", b"\x0c\0", *_NAMES)),
    Reader("tar", _folders, _read_images, _of_data, _NAMES, _tarred("set.tar", "w"), renames=True),
    Reader("tar-bytes", lambda: [_tarred("set.tar", "w:")(seed) for seed in _folders()], _read_images, _of_data,
           (b"ustar\0" b"00", b"ustar  \0", b"L", b"x", b"g", b"S", b"7777777", b"\xff" * 12, *_NAMES)),
    Reader("tar-gzip", lambda: [_tarred("set.tgz", "w:gz")(seed) for seed in _folders()], _read_images, _of_data,
           (b"\x1f\x8b", b"\x08\x08")),
    Reader("image", _images, _read_images, _of_data, (
        b"IHDR", b"IDAT", b"iCCP", b"zTXt", b"acTL", b"eXIf", b"RIFF", b"VP8X", b"ANIM", b"\xff\xda", b"\xff\xe1",
        b"Exif\0\0", b"BM", b"\x7f\xff\xff\xff")),
    Reader("png", lambda: _images()[:3], _read_images, _of_data, (
        b"IHDR", b"IDAT", b"PLTE", b"tRNS", b"zTXt", b"iTXt", b"iCCP", b"acTL", b"fdAT", b"eXIf", b"\x7f\xff\xff\xff"),
        _sealed_chunks),
    Reader("store", _store, _read_store, _of_stores, _JSON, renames=True),
    Reader("store-sealed", _store, _read_store, _of_stores, (
        *_JSON, b"sharding_indexed", b"bytes", b"zstd", b"crc32c", b"float64", b"string", b"-5", b"gzip", b"blosc"),
        _sealed_store),
    Reader("network", lambda: [_network()], _read_network, _of_networks, (
        *_JSON, b"model", b"mlp", b"dcgan", b":", b"os:system")),
    Reader("network-sealed", lambda: [_network()], _read_network, _of_networks, (
        *_JSON, b"F32", b"I64", b"BOOL", b"data_offsets", b"shape", b"__metadata__", b"dtype"), _sealed_network),
    Reader("torch", _torch, _read_torch, _of_torch, (
        *_JSON, b"F16", b"BF16", b"F8_E4M3", b"I64", b"data_offsets", b"shape", b"module.", b"num_batches_tracked")),
    Reader("params", _params, _read_params, _of_params, (
        b"!!python/object/apply:os.system ['id']", b"&a [*a]", b"*a", b"<<: *a", b": ", b"? ", b"!!binary", b"[" * 3000,
        b"2001-01-01", b"0x10", b"1e999", b".nan", b"~", b"---\n", b"%YAML 1.1\n", b"|\n", b"seed", b"families",
        b"studies", b"theta", b"model: dcgan", b"study: ", b"os:system", b"!!set {a}", b"!!omap [a: 1]", b"- ")),
    Reader("request", _requests, _read_request, _of_requests, (
        *_JSON, b"\r\n--b\r\n", b"--b--", b"filename*=utf-16''x", b"charset=utf-16", b"image/jpeg", b"boundary=",
        b"Content-Transfer-Encoding: base64\r\n", b"name=", b";")),
    Reader("index", _index, _read_index, _of_indices, (b"PAR1", b"embedding", b"digest.data", b"ARROW:schema")),
)}
