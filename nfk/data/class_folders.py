"""One folder a class: `cat/1.png`, or `train/cat/1.png` and `test/cat/2.png`; on disk, in a zip or in a tar.

Class names are the folders' names, sorted. Folders around all of it are looked through; other files beside the
class folders are left alone; every file in a class folder must be an image. Images in no folder at all have no classes:
they are of the one class `UNLABELLED`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath

import numpy as np

from nfk.data.archives import Member, Tree, member
from nfk.data.decode import Wanted, decode, decoder
from nfk.data.image_set import DataError
from nfk.data.source import Block, Part, Source, joined

_LARGEST = 64 << 20  # bytes of one encoded image
_BLOCK_BYTES, _BLOCK_IMAGES = 32 << 20, 2048
UNLABELLED = "unlabelled"
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def open_tree(tree: Tree, source: str, digest: str, wanted: Wanted) -> Source:
    """Rows in order of part, class and name, whatever order an archive has. Memory: two blocks of 32 MiB."""
    places = _places(tree)
    test = [name for name, (part, _) in places.items() if part == "test"]
    train = [name for name, (part, _) in places.items() if part != "test"]
    train, test = train or test, test if train else []
    class_names = tuple(sorted({places[name][1] for name in train}))
    number = {name: label for label, name in enumerate(class_names)}
    for name in test:
        if places[name][1] not in number:
            raise DataError(f"{tree.where(name)}: class {places[name][1]!r} is not in the train part; "
                            "add it there or drop it")
    parts = [[Part(np.asarray([number[places[name][1]] for name in names], np.int32), str(tree.path))]
             if names else [] for names in (train, test)]
    found = joined(parts[0], parts[1], class_names)
    row = {name: place for place, name in enumerate((*train, *test))}
    with member(tree, train[0]) as first:
        shape = decode(_encoded(first), where=first.where, wanted=wanted).shape

    def blocks() -> Iterator[Block]:
        with decoder(wanted, shape) as decoded:
            for names, encoded in _batches(tree, row, math.prod(shape)):
                yield Block(np.asarray([row[name] for name in names]), decoded(encoded, list(map(tree.where, names))))

    return Source(tree.path, shape, found.labels, found.class_names, source, digest, found.test_from, blocks,
                  tuple(row))


def _places(tree: Tree) -> dict[str, tuple[str | None, str]]:
    """The part and the class of each image, in order of path; DataError where a path says none."""
    paths = {name: PurePosixPath(name).parts for name in tree.files}
    if is_flat(tree):
        return {name: (None, UNLABELLED) for name in paths if _is_image(name)}
    while _lie_in_one_folder(paths.values()):
        paths = {name: path[1:] for name, path in paths.items()}
    divided = all(path[0].lower() in ("train", "test") for path in paths.values() if len(path) > 2)
    deep = any(len(path) > 2 for path in paths.values())
    places: dict[str, tuple[str | None, str]] = {}
    for name, path in paths.items():
        if len(path) == 2 and not deep:
            places[name] = None, path[0]
        elif len(path) == 3 and divided:
            places[name] = path[0].lower(), path[1]
        elif len(path) > 1 or _is_image(name):
            raise DataError(f"{tree.where(name)}: lies neither in CLASS/ like all others nor in train/CLASS/ or "
                            "test/CLASS/; move it there")
    if not places:
        raise DataError(f"{tree.path}: holds no images; put each in a folder named for its class")
    for folder in tree.folders:
        if not any(name.startswith(f"{folder}/") for name in places):
            if Path(tree.where(folder)).is_symlink():
                raise DataError(f"{tree.where(folder)}: is a link; put the folder itself there")
            raise DataError(f"{tree.where(folder)}: a class folder without images; fill or remove it")
    return places


def is_flat(tree: Tree) -> bool:
    """There are images, and no folders."""
    nested = set(tree.folders) - {"."} or any("/" in name for name in tree.files)
    return not nested and any(map(_is_image, tree.files))


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in _SUFFIXES


def _lie_in_one_folder(paths: Collection[tuple[str, ...]]) -> bool:
    return any(len(path) > 2 for path in paths) and min(map(len, paths)) > 1 and len({path[0] for path in paths}) == 1


def _batches(tree: Tree, names: dict[str, int], decoded_bytes: int) -> Iterator[tuple[list[str], list[bytes]]]:
    at_once = max(1, min(_BLOCK_IMAGES, _BLOCK_BYTES // decoded_bytes))
    batch: tuple[list[str], list[bytes]] = [], []
    size = 0
    with closing(tree.read(names)) as members:
        for image in members:
            encoded = _encoded(image)
            batch[0].append(image.name)
            batch[1].append(encoded)
            size += len(encoded)
            if len(batch[0]) == at_once or size > _BLOCK_BYTES:
                yield batch
                batch, size = ([], []), 0
    if batch[0]:
        yield batch


def _encoded(image: Member) -> bytes:
    encoded = image.read(_LARGEST + 1)
    if len(encoded) > _LARGEST:
        raise DataError(f"{image.where}: has more than {_LARGEST >> 20} MiB, too many for an image; shrink it")
    return encoded
