"""`nfk atlas FAMILY`: one local page of the embedding, for looking around in it. No stage of `dvc.yaml`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nfk import durable, names, store, tracking
from nfk.atlas.content import Atlas, Category, Measure
from nfk.atlas.page import render
from nfk.evaluation.each_image import isolation, read_each
from nfk.evaluation.features import Features, Labels
from nfk.evaluation.plane import plane
from nfk.params import Params
from nfk.progress import told
from nfk.stages import images, network, workspace
from nfk.stages.images import SPLITS, Images
from nfk.stages.labelled import is_known, labels


class Made(NamedTuple):
    summary: str
    """one line for people"""
    tracked: bool
    """whether MLflow has it; if not, it waits in the spool"""


def run(params: Params, family: str, to: Path, points: int) -> Made:
    """Write the page to `to` and log it to MLflow as an artifact of a run of its own.

    Shows `points` images drawn evenly from all splits by params.seed, or all if there are fewer. StoreError where an
    embedding is of other data, network or factors than those here.
    """
    started = datetime.now(UTC)
    params.family(family)
    data, net = images.load(params), network.load(params, family)
    _, statistics_digest = network.load_statistics(params, net, data)
    made_from = {"data": data.digest, "model": net.digest, "statistics": statistics_digest}
    factors = network.load_factors(params, family, **made_from)
    embeddings = store.read(workspace.embeddings_store(family)).expect(**made_from, factors=factors.digest)
    atlas = gather(params, family, data, net.card["model"], factors, embeddings, points)
    page = render(atlas)
    durable.write_whole(to, page.encode())
    tracked = tracking.log(tracking.StageRecord(
        stage="atlas", family=family, started=started, params={"atlas": {"points": points}},
        metrics={"images": len(atlas.ids)}, artifacts=(to,),
        tags={f"digest.{name}": digest for name, digest in {**made_from, "embeddings": embeddings.digest}.items()},
    ), params.tracking)
    return Made(f"{len(atlas.ids):,} of {atlas.images_in_all:,} images, {len(page) / 2**20:.1f} MiB -> {to}", tracked)


def gather(params: Params, family: str, data: Images, model: str, factors: store.Store, embeddings: store.Store,
           points: int) -> Atlas:
    """What the page shows, from stores that were held against one another."""
    vectors = {split: np.asarray(embeddings[split][:]) for split in SPLITS}
    counts = [len(vectors[split]) for split in SPLITS]
    drawn = np.random.default_rng(params.seed).permutation(sum(counts))[:points]
    chosen = np.sort(drawn)
    of_split = np.repeat(np.arange(len(SPLITS)), counts)[chosen]
    rows = np.concatenate([vectors[split] for split in SPLITS])[chosen]
    known = np.concatenate([data.labels(split, count) for split, count in zip(SPLITS, counts, strict=True)])[chosen]

    files = [name for split in SPLITS for name in names.read(embeddings, f"{split}_file") or ()]
    told(f"atlas@{family}", f"a map of {len(rows):,} images")
    categories: dict[str, Category] = {}
    measures: dict[str, Measure] = {}
    if is_known(data):
        probed = labels(params, data)
        reading = read_each(
            Features(f"nfk-{rows.shape[1]}", vectors["train"][: params.labelled], vectors["validation"], rows),
            Labels(probed.train, probed.validation, known), params.evaluate.strengths)
        categories = {"prediction": Category(data.class_names, reading.predictions),
                      "probe": Category(("right", "wrong"), (reading.predictions != known).astype(np.int32))}
        measures = {"surprise": Measure("bits: −log₂ of what the probe gives to the label", reading.surprise)}
    # the embedding's training rows come first in `chosen`
    itself = np.where(of_split == SPLITS.index("train"), chosen, -1)
    return Atlas(
        family=family, dataset=params.data.name, model=model, digest=embeddings.digest, images_in_all=sum(counts),
        ids=np.concatenate([embeddings[f"{split}_id"][:] for split in SPLITS])[chosen],
        pixels=np.concatenate([data.pixels(split, count)[chosen[of_split == place] - sum(counts[:place])]
                               for place, (split, count) in enumerate(zip(SPLITS, counts, strict=True))]),
        embedding=rows, plane=plane(rows, seed=params.seed),
        shares=np.diff(np.asarray(factors["explained_variance"][:]), prepend=0.0),
        categories={
            "label": Category(data.class_names, known),
            "split": Category(SPLITS, of_split), **categories},
        measures=measures | {
            "isolation": Measure("mean cosine distance to the 10 nearest training images",
                                 isolation(vectors["train"], rows, itself))},
        files=None if not files else tuple(files[place] for place in chosen))
