"""A small atlas whose points lie on a lattice, so that each can be clicked alone."""

from __future__ import annotations

import numpy as np

from nfk.atlas.content import Atlas, Category, Measure

N, K, SIDE = 60, 6, 9
CLASSES = ("cat", "</script><b>dog", "7")


def example_atlas() -> Atlas:
    rng = np.random.default_rng(0)
    labels = np.arange(N) % 3
    embedding = (rng.normal(size=(3, K))[labels] + 0.7 * rng.normal(size=(N, K))).astype(np.float32)
    surprise = rng.exponential(size=N)
    surprise[4] = np.inf
    return Atlas(
        family="gan", dataset="animals", model="dcgan", digest="0123456789abcdef", images_in_all=1234,
        ids=1000 - 7 * np.arange(N), pixels=rng.integers(0, 256, (N, SIDE, SIDE, 1)).astype(np.uint8),
        embedding=embedding, plane=np.stack([np.arange(N) % 10, np.arange(N) // 10], axis=1).astype(np.float32),
        shares=np.array([0.4, 0.2, 0.1, 0.05, 0.03, 0.02]),
        categories={"label": Category(CLASSES, labels),
                    "split": Category(("train", "validation", "test"), labels[::-1]),
                    "probe": Category(("right", "wrong"), (np.arange(N) % 5 == 0).astype(np.int32))},
        measures={"surprise": Measure("bits", surprise)})
