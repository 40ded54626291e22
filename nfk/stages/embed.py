"""`embed@F`: one vector of k numbers for every image of every split."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from jaxtyping import Float

from nfk import names, shared_store, store
from nfk.checkpoint import RowFile
from nfk.fisher.embedding import embed_to_file, held_or_read, scale
from nfk.fisher.vectors import FisherVectors
from nfk.linalg.group import Alone, Group, share
from nfk.linalg.rows import SomeRows, block_count
from nfk.linalg.tall import ReadByRows
from nfk.params import Params
from nfk.progress import Report, progress
from nfk.stages import images, network, workspace
from nfk.stages.images import SPLITS
from nfk.stages.outcome import Outcome


def run(params: Params, family: str, group: Group | None = None) -> Outcome:
    group = Alone() if group is None else group
    data, net = images.load(params), network.load(params, family)
    statistics, statistics_digest = network.load_statistics(params, net, data)
    made_from = {"data": data.digest, "model": net.digest, "statistics": statistics_digest}
    factors = network.load_factors(params, family, **made_from)
    inputs = {**made_from, "factors": factors.digest}
    memory_bytes = int(params.svd.memory_gib * 2**30)
    scores, choices = net.scores, network.choices(factors)
    whitening = statistics.whitening(scores.index, **choices)
    right = held_or_read(factors["right"], memory_bytes)
    path, whole = workspace.embeddings_store(family), store.read(workspace.data_store(params))
    counts: dict[str, float | int] = {}
    scratches = []
    with shared_store.write(path, inputs=inputs, group=group) as writer, progress(f"embed@{family}") as report:
        for split in SPLITS:
            examples = data.examples(split, params.embed.examples if split == "train" else None)
            vectors = FisherVectors(scores, examples, statistics, whitening=whitening, block_rows=params.embed.block)
            scratches.append(workspace.scratch(f"embed-{split}", family, {
                "params": params.embed.model_dump(), "read": "whole" if isinstance(right, jax.Array) else memory_bytes,
                "split": split,
                **inputs}, group))
            own = share(block_count(vectors), group)
            rows = SomeRows(vectors, own)
            found = embed_to_file(rows, right, scratches[-1], memory_bytes=memory_bytes - vectors.whitening_bytes,
                                  progress=partial(_reported, report, split))
            scaled = _Scaled(found, rows.shape[0], partial(
                scale, scaling=params.embed.scaling, singular_values=factors["singular_values"][:],
                fitted=factors.attributes["examples"]), own.start * vectors.block_rows)
            writer.put_rows(split, scaled, start=own.start * vectors.block_rows, total=vectors.shape[0],
                            share=-(-block_count(vectors) // group.size) * vectors.block_rows)
            writer.put(f"{split}_id", data.source_rows(split)[: vectors.shape[0]])
            first, _ = data.ranges[split]
            if (files := names.read(whole, "file", first, first + vectors.shape[0])) is not None:
                names.put(writer, f"{split}_file", files)
            counts[split] = vectors.shape[0]
        writer.attributes.update(scaling=params.embed.scaling, rank=right.shape[1])
    for scratch in scratches:
        scratch.clear()
    return Outcome(
        f"{sum(counts.values()):,} images x {right.shape[1]} -> {path}",
        params={"embed": params.embed.model_dump()},
        metrics={"rank": right.shape[1]} | {f"images/{split}": count for split, count in counts.items()},
        digests={**inputs, "embeddings": store.read_marker(path)["digest"]})


class _Scaled(ReadByRows):
    """The rows of a file, scaled as they are read; the first is that of the example `first`."""

    def __init__(self, file: RowFile, rows: int, scaled: Callable[..., np.ndarray], first: int) -> None:
        self.shape, self.dtype = (rows, file.columns), file.dtype
        self._file, self._scaled, self._first = file, scaled, first

    def _read(self, start: int, stop: int) -> Float[np.ndarray, "b k"]:
        return self._scaled(self._file.read(start, stop), first=self._first + start)


def _reported(report: Report, split: str, done: int, total: int, what: str) -> None:
    report(done, total, f"{what} of {split}")
