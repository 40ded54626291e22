"""`data`: a bundled set or a path becomes one checksummed store of images, labels and splits.

Memory: a few blocks of images and all labels, however many images there are. Disk, while it runs: the images
unpacked, beside the store.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Int64

from nfk import names, store
from nfk.data.decode import Wanted
from nfk.data.image_set import DataError
from nfk.data.read import open_source
from nfk.data.reorder import in_order
from nfk.data.source import Source
from nfk.data.split import split
from nfk.data.subset import of_classes
from nfk.params import Params
from nfk.progress import Report, progress
from nfk.stages import workspace
from nfk.stages.images import SPLITS
from nfk.stages.outcome import Outcome


def run(params: Params) -> Outcome:
    sizes = {name: getattr(params.data, name) for name in SPLITS}
    path = workspace.data_store(params)
    with progress("data", "images") as report:
        source = open_source(params.data.source, Wanted(params.data.resize, params.data.channels))
        if params.data.classes is not None:
            source = of_classes(source, params.data.classes)
        rows = split(source, **sizes, seed=params.seed)
        _write(path, params.data.name, source, {name: getattr(rows, name) for name in SPLITS}, report)
    return Outcome(
        _summary(source, sum(sizes.values()), path),
        params={"seed": params.seed, "data": params.data.model_dump()},
        metrics={f"images/{name}": size for name, size in sizes.items()},
        digests={"source": source.digest, "data": store.read_marker(path)["digest"]})


def convert(given: str, path: Path, wanted: Wanted) -> str:
    """Write all of the source `given` to the store `path`, rows in the source's order; what came of it, in one line.

    Its own train and test parts are the splits `train` and `test`; without a test part all is `train`.
    """
    if path.suffix != ".zarr":
        raise DataError(f"--to {path}: must end in .zarr; rename it")
    if path.exists() and not (path / store.MARKER).is_file():
        raise DataError(f"--to {path}: is there and is no store; give another name or remove it")
    with progress("data", "images") as report:
        source = open_source(given, wanted)
        boundary = len(source) if source.test_from is None else source.test_from
        every = np.arange(len(source))
        _write(path, path.stem, source, {"train": every[:boundary], "validation": every[:0], "test": every[boundary:]},
               report)
    return _summary(source, len(source), path)


def _write(path: Path, name: str, source: Source, rows: dict[str, Int64[np.ndarray, " _"]], report: Report) -> None:
    """The rows of each split, split after split, whole shards at a time."""
    order = np.concatenate(list(rows.values()))
    sizes = [len(each) for each in rows.values()]
    edges = np.cumsum([0, *sizes])
    with store.write(path, inputs={"source": source.digest}) as writer:
        images, done = writer.create("images", (len(order), *source.shape), np.uint8, compress=True), 0
        for block in in_order(source, order, images.shards[0], path.parent,
                              lambda done, total: report(done, total, "reading")):
            images[done:done + len(block)] = block
            done += len(block)
            report(done, len(order), "writing")
        writer.put("labels", source.labels[order])
        writer.put("split", np.repeat(np.arange(3, dtype=np.uint8), sizes))
        writer.put("source_row", order.astype(np.int64))
        if source.names is not None:
            names.put(writer, "file", [source.names[row] for row in order])
        writer.attributes.update(
            name=name, source=source.source, class_names=list(source.class_names),
            splits={split: [int(edges[i]), int(edges[i + 1])] for i, split in enumerate(rows)})


def _summary(source: Source, count: int, path: Path) -> str:
    shape = " x ".join(str(extent) for extent in source.shape)
    classes = f"in {len(source.class_names)} classes" if len(source.class_names) > 1 else "without classes"
    return f"{count:,} images of {shape} {classes} -> {path}"
