"""Progress with rate and time left: a bar on a terminal, a line every ten seconds in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[int, int, str], None]
_LINE_SECONDS = 10.0


@contextmanager
def progress(title: str, unit: str = "examples") -> Iterator[Report]:
    """A function report(done, total, what) that shows how far the work is.

    A change of `what` starts a new bar, and rates are taken from the first report on, so that work resumed in
    the middle shows its true speed.
    """
    reporter = _Bar(title, unit) if sys.stderr.isatty() else _Lines(title, unit)
    try:
        yield reporter.report
    finally:
        reporter.close()


class _Lines:
    def __init__(self, title: str, unit: str) -> None:
        self._title, self._unit = title, unit
        self._what, self._first, self._started, self._printed = "", 0, 0.0, 0.0

    def report(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._first, self._started, self._printed = what, done, now, now
        elif done >= total or now - self._printed >= _LINE_SECONDS:
            rate = (done - self._first) / max(now - self._started, 1e-9)
            left = "done" if done >= total else f"{_clock((total - done) / max(rate, 1e-9))} left"
            print(f"{self._title}: {what}: {done:,} of {total:,} {self._unit}, {rate:,.0f}/s, {left}",
                  file=sys.stderr, flush=True)
            self._printed = now

    def close(self) -> None:
        pass


class _Bar:
    def __init__(self, title: str, unit: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._title, self._what, self._task, self._first, self._started = title, "", None, 0, 0.0
        self._bar = Progress(TextColumn("{task.description}"), BarColumn(),
                             TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit),
                             TextColumn("{task.fields[rate]:,.0f}/s"), TimeElapsedColumn(),
                             TimeRemainingColumn(), console=Console(stderr=True))
        self._bar.start()

    def report(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        if what != self._what or self._task is None:
            self._what, self._first, self._started = what, done, now
            self._task = self._bar.add_task(f"{self._title}: {what}", total=total, rate=0.0)
        rate = (done - self._first) / max(now - self._started, 1e-9)
        self._bar.update(self._task, completed=done, rate=rate)

    def close(self) -> None:
        self._bar.stop()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
