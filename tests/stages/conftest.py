"""A workspace with a small data set, and the stages called in it as functions."""

from __future__ import annotations

import os

import numpy as np
import pytest

from nfk import params, store
from nfk.params import Params
from nfk.stages import embed, pretrain, statistics, svd

SPLITS = {"train": 40, "validation": 12, "test": 12}
SECTIONS = {"data": SPLITS, "statistics": {"model_samples": 32, "block": 16},
            "svd": {"rank": 4, "strategy": "explicit", "block": 16}, "embed": {"block": 16},
            "evaluate": {"labels": [20], "neighbours": [1]}}


class Workspace:
    """Runs stages in the current folder, whose data are random 12 x 12 images of two classes."""

    def params(self, families: dict, **sections) -> Params:
        return params.parse({"families": families, **SECTIONS, **sections})

    def run(self, settings: Params, family: str, *stages: str) -> None:
        for name in stages:
            {"pretrain": pretrain, "statistics": statistics, "svd": svd, "embed": embed}[name].run(settings, family)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng, count = np.random.default_rng(0), sum(SPLITS.values())
    edges = np.cumsum([0, *SPLITS.values()]).tolist()
    with store.write(os.path.join("data", "digits.zarr"), inputs={"source": "0" * 64}) as writer:
        writer.put("images", rng.integers(0, 256, (count, 12, 12, 1)).astype(np.uint8))
        writer.put("labels", (np.arange(count) % 2).astype(np.int32))
        writer.put("source_row", np.arange(count))
        writer.attributes.update(class_names=["even", "odd"], source="random", splits={
            name: edges[place : place + 2] for place, name in enumerate(SPLITS)})
    return Workspace()
