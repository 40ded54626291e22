"""`data`: a bundled set or a path becomes one checksummed store of images, labels and splits."""

from __future__ import annotations

import numpy as np

from nfk import store
from nfk.data.read import read
from nfk.data.split import split
from nfk.params import Params
from nfk.progress import progress
from nfk.stages import workspace
from nfk.stages.images import SPLITS
from nfk.stages.outcome import Outcome


def run(params: Params) -> Outcome:
    with progress("data", "images") as report:
        image_set = read(params.data.source, lambda done, total: report(done, total, "reading"))
    sizes = {name: getattr(params.data, name) for name in SPLITS}
    rows = split(image_set, **sizes, seed=params.seed)
    order = np.concatenate([getattr(rows, name) for name in SPLITS])
    edges = np.cumsum([0, *sizes.values()])
    path = workspace.data_store(params)
    with store.write(path, inputs={"source": image_set.digest}) as writer:
        writer.put("images", image_set.images[order], compress=True)
        writer.put("labels", image_set.labels[order])
        writer.put("split", np.repeat(np.arange(3, dtype=np.uint8), list(sizes.values())))
        writer.put("source_row", order.astype(np.int64))
        writer.attributes.update(
            name=params.data.name, source=image_set.source, class_names=list(image_set.class_names),
            splits={name: [int(edges[i]), int(edges[i + 1])] for i, name in enumerate(SPLITS)})
    shape = " x ".join(str(extent) for extent in image_set.images.shape[1:])
    return Outcome(
        f"{len(order):,} images of {shape} in {len(image_set.class_names)} classes -> {path}",
        params={"seed": params.seed, "data": params.data.model_dump()},
        metrics={f"images/{name}": size for name, size in sizes.items()},
        digests={"source": image_set.digest, "data": store.read_marker(path)["digest"]})
