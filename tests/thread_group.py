"""A group of threads that wait for one another at every sum (satisfies `nfk.linalg.group.Group`)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Member:
    """One of `size` threads, that share a list of what each brought to the last sum."""

    def __init__(self, index: int, brought: list[Any], meeting: threading.Barrier) -> None:
        self.index, self.size = index, len(brought)
        self._brought, self._meeting = brought, meeting

    def total(self, values: Any) -> Any:
        self._brought[self.index] = values
        self._meeting.wait(60)
        result = sum(self._brought)
        self._meeting.wait(60)
        return result


def together(size: int, work: Callable[[Member], Any]) -> list[Any]:
    """What `work` gives in each of so many threads."""
    brought, meeting = [None] * size, threading.Barrier(size)
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(lambda index: work(Member(index, brought, meeting)), range(size)))
