"""Processes that share the rows of one matrix, each computing its own: what the numerical code knows of them.

Whatever belongs to the p parameters every process has whole; of the n rows each has its share. So all that ever
crosses between them is a sum: of the processes' V^T Y (p x l) once a pass, and of matrices no larger than l x l.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped


@runtime_checkable
class Group(Protocol):
    """`nfk.hosts.Hosts` is one. Every member makes the same calls in the same order."""

    @property
    def index(self) -> int:
        """This process, 0 .. size - 1; 0 writes what there is one of."""

    @property
    def size(self) -> int:
        """How many there are."""

    def total(self, values: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        """The sum of all members' `values`, arrays of one shape: the same bits for each of them."""


class Alone:
    """The group of one."""

    index, size = 0, 1

    def total(self, values: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        """The `values`, of any shape (...), themselves."""
        return values


def from_first(group: Group, values: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """The `values` of process 0; those of others are of the same shape, and ignored."""
    return group.total(values if group.index == 0 else np.zeros_like(values))


def all_have(group: Group, mine: bool) -> bool:
    """Whether it is so for every member."""
    return int(group.total(np.array([mine], np.int32))[0]) == group.size


def share(blocks: int, group: Group) -> range:
    """The blocks of this process: contiguous, as many for each, fewer (or none) for the last ones."""
    each = -(-blocks // group.size)
    return range(min(group.index * each, blocks), min((group.index + 1) * each, blocks))
