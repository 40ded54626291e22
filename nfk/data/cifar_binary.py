"""The binary version of CIFAR-10 and CIFAR-100: records of a label and 32 × 32 pixels, red, green, blue.

A CIFAR-10 record is 1 byte of label and 3,072 of pixels; CIFAR-100 has two bytes of label, the coarse and the
fine one, of which the fine one is used. Class names are lines of `batches.meta.txt` or `fine_label_names.txt`,
where there is one. Definition: https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import UInt8

from nfk.data.archives import Member, Tree, member
from nfk.data.decode import Wanted
from nfk.data.image_set import DataError
from nfk.data.source import Block, Part, Source, joined

SHAPE = (32, 32, 3)
PIXELS = 3072
_RECORDS = 2048  # read at once
_BATCH = re.compile(r"(data_batch_\d+|test_batch|train|test)\.bin$")
_NAMES = {"batches.meta.txt": 1, "fine_label_names.txt": 2}  # bytes of label a record


def batches(tree: Tree) -> list[str]:
    """The files of records, by the names they are published under."""
    return [name for name in tree.files if _BATCH.match(PurePosixPath(name).name)]


def open_tree(tree: Tree, source: str, digest: str, wanted: Wanted) -> Source:
    """The set held by the batches of `tree`; a test batch is its test part."""
    files = sorted(batches(tree), key=lambda name: (_is_test(name), name))
    names = {PurePosixPath(name).name: name for name in tree.files}
    known = next((name for name in _NAMES if name in names), None)
    fine = any(PurePosixPath(name).name in ("train.bin", "test.bin") for name in files)
    label_bytes = _NAMES[known] if known else 2 if fine else 1
    class_names = _class_names(tree, names[known]) if known else None
    width = label_bytes + PIXELS

    with closing(tree.read(files)) as members:
        labels = {batch.name: np.concatenate([records[:, label_bytes - 1] for records in _records(batch, width)])
                  for batch in members}
    train = [Part(labels[name], tree.where(name)) for name in files if not _is_test(name)]
    test = [Part(labels[name], tree.where(name)) for name in files if _is_test(name)]
    found = joined(train or test, test if train else [], class_names)
    starts = dict(zip(files, np.cumsum([0, *(len(labels[name]) for name in files)]), strict=False))

    def blocks() -> Iterator[Block]:
        with closing(tree.read(files)) as members:
            for batch in members:
                row = int(starts[batch.name])
                for records in _records(batch, width):
                    images = records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
                    yield Block(np.arange(row, row + len(images)), wanted.made_all(images))
                    row += len(images)

    return Source(tree.path, wanted.shape(SHAPE), found.labels, found.class_names, source, digest, found.test_from,
                  blocks)


def _records(batch: Member, width: int) -> Iterator[UInt8[np.ndarray, "b width"]]:
    done = 0
    while content := batch.read(_RECORDS * width):
        whole, rest = divmod(len(content), width)
        if rest:
            raise DataError(f"{batch.where}: row {done + whole}: ends after {rest:,} of a record's {width:,} "
                            "bytes; fetch the file again")
        yield np.frombuffer(content, np.uint8).reshape(-1, width)
        done += whole
    if done == 0:
        raise DataError(f"{batch.where}: holds no records; fetch the file again")


def _class_names(tree: Tree, name: str) -> tuple[str, ...]:
    with member(tree, name) as text:
        lines = text.read(1 << 16).decode("utf-8", "replace").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def _is_test(name: str) -> bool:
    return PurePosixPath(name).name.startswith("test")
