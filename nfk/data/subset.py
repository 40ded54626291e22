"""Some classes of a source as a source of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from nfk.data.image_set import DataError
from nfk.data.source import Block, Source
from nfk.nearest import did_you_mean


def of_classes(source: Source, names: Sequence[str]) -> Source:
    """The images of these classes, numbered in this order; rows keep their order. What is left out is read past.

    The digest stays the source's: it says which bytes were read. DataError for a class that is not there, or twice.
    """
    for name in names:
        if name not in source.class_names:
            raise DataError(f"data.classes: no class {name!r} in {source.source}"
                            f"{did_you_mean(name, source.class_names)}; there are {', '.join(source.class_names)}")
    if len(set(names)) < len(names):
        raise DataError(f"data.classes: {', '.join(names)} names a class twice; name each once")
    number = np.full(len(source.class_names), -1, np.int32)
    number[[source.class_names.index(name) for name in names]] = np.arange(len(names))
    labels = number[source.labels]
    kept = labels >= 0
    row = np.cumsum(kept) - 1

    def blocks() -> Iterator[Block]:
        for block in source.counted():
            inside = kept[block.rows]
            if inside.any():
                yield Block(row[block.rows[inside]], block.images[inside])

    test_from = None if source.test_from is None else int(kept[:source.test_from].sum())
    files = None if source.names is None else tuple(name for name, keep in zip(source.names, kept, strict=True) if keep)
    return replace(source, labels=labels[kept], class_names=tuple(names), test_from=test_from, blocks=blocks,
                   source=f"{source.source}, classes {', '.join(names)}", names=files)
