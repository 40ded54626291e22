"""How long computations leave their state behind, without knowing where it goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Checkpoint(Protocol):
    """Named sets of arrays that outlive the process. `nfk.store.Scratch` is one."""

    def due(self) -> bool:
        """Whether enough time has gone by for a save inside a pass to be worth its bytes."""

    def save(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep `arrays` under `name`, whole or not at all."""

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """What was kept under `name`, bit for bit, or None."""


class Forgetful:
    """Keeps nothing: for short work and for library use without a folder."""

    def due(self) -> bool:
        return False

    def save(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        pass

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        return None
