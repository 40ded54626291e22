"""Trainings of a study that outlive the process: states in a scratch checkpoint, several under one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import PyTree

from nfk.checkpoint import Checkpoint
from nfk.training import kept_leaves, with_leaves


@dataclass(frozen=True)
class Part:
    """A Checkpoint of one of several works that share another: its names begin with `name`."""

    whole: Checkpoint
    name: str

    def due(self) -> bool:
        return self.whole.due()

    def save(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        self.whole.save(f"{self.name}-{name}", arrays)

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        return self.whole.load(f"{self.name}-{name}")


def once(checkpoint: Checkpoint, name: str, like: PyTree, make: Callable[[Checkpoint], PyTree]) -> PyTree:
    """What `make` returns, arrays in the structure of `like`: made, or from an earlier process that had made it.

    `make` is given a checkpoint of its own, for the state of what was cut off.
    """
    part = Part(checkpoint, name)
    done, found = restored(part, "done", like)
    if not done:
        found = make(part)
        saved(part, "done", 1, found)
    return found


def saved(checkpoint: Checkpoint, name: str, steps: int, state: PyTree) -> None:
    """Keep a state and how many steps led to it."""
    checkpoint.save(name, {"steps": np.array([steps]), **kept_leaves(state)})


def restored(checkpoint: Checkpoint, name: str, start: PyTree) -> tuple[int, Any]:
    """The steps done and the state `saved` under that name; 0 and `start` where there is none."""
    kept = checkpoint.load(name)
    return (0, start) if kept is None else (int(kept["steps"][0]), with_leaves(start, kept))
