"""A study's material made of a small problem, where most of what a pipeline makes is left out."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from nfk.checkpoint import Forgetful
from nfk.params import EvaluateParams
from nfk.studies.study import Material
from tests.models.small_networks import CLASSES, squares

COUNTS = {"train": 256, "validation": 64, "test": 128}


class Splits:
    """Squares as `nfk.studies.study.ImageSplits`."""

    def __init__(self, channels: int = 1, size: int = 12) -> None:
        made = {split: squares(count, channels, seed) for seed, (split, count) in enumerate(COUNTS.items())}
        border = (size - 12) // 2
        frame = ((0, 0), (border, border), (border, border), (0, 0))
        self._images = {split: np.pad(part.images, frame) for split, part in made.items()}
        self._labels = {split: part.labels for split, part in made.items()}
        self.shape = self._images["train"].shape[1:]
        self.class_names = tuple("abcd"[:CLASSES])

    def pixels(self, split: str, most: int | None = None) -> np.ndarray:
        return self._images[split][:most]

    def labels(self, split: str, most: int | None = None) -> np.ndarray:
        return self._labels[split][:most]


class Memory(NamedTuple):
    """A checkpoint in memory that is always due, and breaks off after so many saves."""

    kept: dict[str, Any]
    saves: int = 10**9

    def due(self) -> bool:
        return True

    def save(self, name, arrays):
        if len(self.kept.setdefault("_saves", [])) >= self.saves:
            raise KeyboardInterrupt
        self.kept["_saves"].append(name)
        self.kept[name] = {key: np.array(value) for key, value in arrays.items()}

    def load(self, name):
        return self.kept.get(name)


@pytest.fixture
def material():
    images = Splits()
    random = np.random.default_rng(0)
    lift = random.normal(size=(144, 6))
    embeddings = {split: (images.pixels(split).reshape(-1, 144) / 255 @ lift).astype(np.float32) for split in COUNTS}
    return Material(images=images, model=None, scores=None, statistics=None, damping=0.0, unit_rows=False,
                    memory_bytes=1 << 30, modes=None,
                    embeddings=embeddings, labelled=COUNTS["train"], block=64,
                    evaluate=EvaluateParams(strengths=(0.1, 10.0)), seed=3, representations=lambda: [],
                    checkpoint=Forgetful())
