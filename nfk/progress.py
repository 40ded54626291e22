"""Progress with rate and time left: a bar on a terminal, a line every ten seconds in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.progress import TaskID

Report = Callable[[int, int, str], None]
_LINE_SECONDS = 10.0


@contextmanager
def progress(title: str, unit: str = "examples") -> Iterator[Report]:
    """A function report(done, total, what) that shows how far the work is, on stderr.

    Rates are taken from the first report on, so that work resumed in the middle shows its true speed. When
    `done` falls or `total` changes, another piece of work has begun.
    """
    reporter = _Bar(title, unit) if sys.stderr.isatty() else _Lines(title, unit)
    piece = _Piece(0, 0, -1, 0.0)

    def report(done: int, total: int, what: str) -> None:
        nonlocal piece
        now = time.monotonic()
        new = total != piece.total or done < piece.done
        piece = _Piece(done, total, done, now) if new else piece._replace(done=done)
        reporter.show(new, done, total, what, (done - piece.first) / max(now - piece.started, 1e-9))

    try:
        yield report
    finally:
        reporter.close()


class _Piece(NamedTuple):
    done: int
    total: int
    first: int
    started: float


class _Lines:
    def __init__(self, title: str, unit: str) -> None:
        self._title, self._unit, self._printed = title, unit, 0.0

    def show(self, new: bool, done: int, total: int, what: str, rate: float) -> None:
        now = time.monotonic()
        if new and done < total:
            self._printed = now
        elif done >= total or now - self._printed >= _LINE_SECONDS:
            speed = "" if rate == 0 else f", {rate:,.0f}/s" if rate >= 10 else f", {rate:.2g}/s"
            left = "done" if done >= total else f"{_clock((total - done) / max(rate, 1e-9))} left"
            print(f"{self._title}: {what}: {done:,} of {total:,} {self._unit}{speed}, {left}",
                  file=sys.stderr, flush=True)
            self._printed = now

    def close(self) -> None:
        pass


class _Bar:
    def __init__(self, title: str, unit: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._title = title
        self._task: TaskID | None = None
        self._bar = Progress(TextColumn("{task.description}"), BarColumn(),
                             TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit),
                             TextColumn("{task.fields[rate]:,.0f}/s"), TimeElapsedColumn(),
                             TimeRemainingColumn(), console=Console(stderr=True))
        self._bar.start()

    def show(self, new: bool, done: int, total: int, what: str, rate: float) -> None:
        if new or self._task is None:
            self._task = self._bar.add_task("", total=total, rate=0.0)
        self._bar.update(self._task, completed=done, rate=rate, description=f"{self._title}: {what}")

    def close(self) -> None:
        self._bar.stop()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
