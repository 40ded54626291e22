"""The Python version of CIFAR-10 and CIFAR-100: pickles, read without running what is in them.

Each batch is a pickled dictionary: `data`, uint8 (n, 3072), red, green, blue; `labels` or `fine_labels`, a list.
`batches.meta` or `meta` holds `label_names` or `fine_label_names`. Of all that a pickle may ask for, only what a
numpy array is made of is answered, by stand-ins that keep bytes and do nothing; anything else is refused by name.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8

from nfk.data.archives import Member, Tree, member
from nfk.data.cifar_binary import PIXELS, SHAPE
from nfk.data.decode import Wanted
from nfk.data.image_set import DataError
from nfk.data.source import Block, Part, Source, joined

_BATCH = re.compile(r"(data_batch_\d+|test_batch)$")
_NAMES = {"batches.meta": "label_names", "meta": "fine_label_names"}
_LARGEST = 1 << 28  # bytes of a batch, which is read whole; the largest published has 155 million
_MOST_NAMES, _LONGEST_NAME = 65_536, 1000


def batches(tree: Tree) -> list[str]:
    """The pickles, by the names they are published under; those of CIFAR-100, `train` and `test`, beside a `meta`."""
    files = set(tree.files)
    return [name for name in tree.files if _BATCH.match(PurePosixPath(name).name)
            or (PurePosixPath(name).name in ("train", "test") and str(PurePosixPath(name).with_name("meta")) in files)]


def open_tree(tree: Tree, source: str, digest: str, wanted: Wanted) -> Source:
    """The set held by the batches of `tree`; a test batch is its test part. Memory: a batch."""
    files = sorted(batches(tree), key=lambda name: (_is_test(name), name))
    meta = next((name for name in tree.files if PurePosixPath(name).name in _NAMES), None)
    with closing(tree.read(files)) as members:
        labels = {batch.name: _batch(batch)[1] for batch in members}
    train = [Part(labels[name], tree.where(name)) for name in files if not _is_test(name)]
    test = [Part(labels[name], tree.where(name)) for name in files if _is_test(name)]
    found = joined(train or test, test if train else [], _class_names(tree, meta) if meta else None)
    starts = dict(zip(files, np.cumsum([0, *(len(labels[name]) for name in files)]), strict=False))

    def blocks() -> Iterator[Block]:
        with closing(tree.read(files)) as members:
            for batch in members:
                images, _ = _batch(batch)
                for start in range(0, len(images), 2048):
                    some = wanted.made_all(images[start:start + 2048])
                    yield Block(np.arange(len(some)) + int(starts[batch.name]) + start, some)

    return Source(tree.path, wanted.shape(SHAPE), found.labels, found.class_names, source, digest, found.test_from,
                  blocks)


def _batch(batch: Member) -> tuple[UInt8[np.ndarray, "n h w c"], Integer[np.ndarray, " n"]]:
    where = batch.where
    content = _unpickle(batch)
    data = content.get("data")
    if not isinstance(data, _Array):
        raise DataError(f"{where}: key 'data' is no array; use a batch of CIFAR")
    pixels = data.array(where)
    labels = content.get("labels", content.get("fine_labels"))
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < 2**31 for label in labels):
        raise DataError(f"{where}: key 'labels' or 'fine_labels' must be a list of class numbers; use a batch of CIFAR")
    if len(labels) != len(pixels):
        raise DataError(f"{where}: {len(labels):,} labels for {len(pixels):,} images; fetch the file again")
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.asarray(labels, np.int64)


def _class_names(tree: Tree, name: str) -> tuple[str, ...]:
    key = _NAMES[PurePosixPath(name).name]
    with member(tree, name) as meta:
        names = _unpickle(meta).get(key)
    if not isinstance(names, list) or not 0 < len(names) <= _MOST_NAMES or not all(
            isinstance(each, str | bytes) and len(each) <= _LONGEST_NAME for each in names):
        raise DataError(f"{tree.where(name)}: key {key!r} must be a list of class names; fetch the file again")
    return tuple(map(_text, names))


class _Array:
    """Stands for numpy.ndarray: keeps the state that its pickle sets."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self, where: str) -> UInt8[np.ndarray, "n pixels"]:
        try:
            _, (count, width), dtype, fortran, content = self.state
            if (width, dtype.name, bool(fortran), len(content)) == (PIXELS, "u1", False, count * PIXELS):
                return np.frombuffer(content, np.uint8).reshape(count, width)
        except (TypeError, ValueError, AttributeError):
            pass
        raise DataError(f"{where}: key 'data' must be an array of bytes of shape (n, {PIXELS}); use a batch of CIFAR")


class _DType:
    """Stands for numpy.dtype."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = _text(name)

    def __setstate__(self, state: Any) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    """Answers an array's three names and the encoding of its bytes; all else is refused."""

    _left = _LARGEST
    """bytes that may yet be made by encoding: a few opcodes can ask for the same text again and again"""

    def _encoded(self, text: str, _: Any) -> bytes:
        self._left -= len(text)
        if self._left < 0:
            raise pickle.UnpicklingError(f"asks for more than {_LARGEST >> 20} MiB of text")
        return text.encode("latin1")

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return lambda *_: _Array()
        if (module, name) == ("numpy", "ndarray"):
            return "numpy.ndarray"  # only an argument of the above
        if (module, name) == ("numpy", "dtype"):
            return lambda *arguments: _DType(*arguments)
        if (module, name) == ("_codecs", "encode"):
            return self._encoded
        raise pickle.UnpicklingError(f"asks for {module}.{name}, which no image set needs")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("asks for an object outside the file")


def _check_opcodes(content: bytes) -> None:
    """UnpicklingError where a place in the memo lies beyond those there can be: pickle makes room up to it at once."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content), 1):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(str(argument)) > count:
            raise pickle.UnpicklingError(f"keeps something at place {argument:,} of {count:,}")


def _unpickle(batch: Member) -> dict[str, Any]:
    where, content = batch.where, batch.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise DataError(f"{where}: has more than {_LARGEST >> 20} MiB, too many for a batch of CIFAR; use Parquet")
    try:
        _check_opcodes(content)
        found = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # hostile bytes make it raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{where}: not a whole or no harmless pickle ({reason}); fetch the file again") from error
    if not isinstance(found, dict):
        raise DataError(f"{where}: holds a {type(found).__name__}, must be a dictionary; use a batch of CIFAR")
    return {_text(key): value for key, value in found.items() if isinstance(key, str | bytes)}


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _is_test(name: str) -> bool:
    return PurePosixPath(name).name.startswith("test")
