"""Progress with rate, time left and memory: a bar on a terminal, a line every ten seconds in a log, JSON for machines.

NFK_PROGRESS, which `nfk --progress` and `nfk --quiet` set for a command and all it starts, is one of

    auto     a bar on a terminal, lines elsewhere
    lines    lines
    json     one JSON object a line, at most one a second: title, what, done, total, unit, rate (a second),
             seconds_left (null before there is a rate) and rss_bytes, this process's memory;
             what else is said is an object of title and said
    none     nothing but warnings
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from rich.progress import TaskID

Report = Callable[[int, int, str], None]
VARIABLE = "NFK_PROGRESS"
MODES = ("auto", "lines", "json", "none")
_LINE_SECONDS, _JSON_SECONDS, _MEMORY_SECONDS = 10.0, 1.0, 1.0


@contextmanager
def progress(title: str, unit: str = "examples") -> Iterator[Report]:
    """A function report(done, total, what) that shows how far the work is, on stderr.

    Rates are taken from the first report on, so that work resumed in the middle shows its true speed. When
    `done` falls or `total` changes, another piece of work has begun. ValueError for an NFK_PROGRESS of no such mode.
    """
    reporter = _reporter(title, unit)
    piece, began, first = (0, 0), 0.0, 0

    def report(done: int, total: int, what: str) -> None:
        nonlocal piece, began, first
        now = time.monotonic()
        new = total != piece[1] or done < piece[0]
        if new:
            began, first = now, done
        piece = (done, total)
        reporter.show(new, _State(done, total, what, (done - first) / max(now - began, 1e-9)))

    try:
        yield report
    finally:
        reporter.close()


def told(title: str, text: str, *, warning: bool = False) -> None:
    """Say one line of a job on stderr, as the mode has it; under `none` only a warning is said."""
    shown = mode()
    if shown == "json":
        _line(json.dumps({"title": title, "warning" if warning else "said": text}))
    elif warning or shown != "none":
        _line(f"{title}: {text}")


def mode() -> str:
    """How progress is shown; ValueError where NFK_PROGRESS is no mode."""
    found = os.environ.get(VARIABLE) or "auto"
    if found not in MODES:
        raise ValueError(f"{VARIABLE}={found}: must be {', '.join(MODES[:-1])} or {MODES[-1]}")
    return found


class _State(NamedTuple):
    done: int
    total: int
    what: str
    rate: float

    @property
    def ended(self) -> bool:
        return self.done >= self.total

    @property
    def seconds_left(self) -> float | None:
        """None where nothing is done yet to take a rate from."""
        return 0.0 if self.ended else (self.total - self.done) / self.rate if self.rate > 0 else None


@runtime_checkable
class _Reporter(Protocol):
    def show(self, new: bool, state: _State) -> None: ...

    def close(self) -> None: ...


def _reporter(title: str, unit: str) -> _Reporter:
    shown = mode()
    if shown == "auto":
        shown = "bar" if sys.stderr.isatty() else "lines"
    kinds: dict[str, Callable[[str, str], _Reporter]] = {
        "bar": _Bar, "lines": _Lines, "json": _Json, "none": _Silent}
    return kinds[shown](title, unit)


class _Silent:
    def __init__(self, title: str, unit: str) -> None:
        pass

    def show(self, new: bool, state: _State) -> None:
        pass

    def close(self) -> None:
        pass


class _Lines(_Silent):
    def __init__(self, title: str, unit: str) -> None:
        self._title, self._unit, self._printed = title, unit, 0.0

    def show(self, new: bool, state: _State) -> None:
        now = time.monotonic()
        if new and not state.ended:
            self._printed = now
        elif state.ended or now - self._printed >= _LINE_SECONDS:
            rate, left = state.rate, state.seconds_left
            speed = "" if rate == 0 else f", {rate:,.0f}/s" if rate >= 10 else f", {rate:.2g}/s"
            until = "done" if state.ended else "time left unknown" if left is None else f"{_clock(left)} left"
            _line(f"{self._title}: {state.what}: {state.done:,} of {state.total:,} {self._unit}{speed}, {until}, "
                  f"{_size(_rss())}")
            self._printed = now


class _Json(_Silent):
    def __init__(self, title: str, unit: str) -> None:
        self._title, self._unit, self._printed = title, unit, -_JSON_SECONDS

    def show(self, new: bool, state: _State) -> None:
        now = time.monotonic()
        if new or state.ended or now - self._printed >= _JSON_SECONDS:
            left = state.seconds_left
            _line(json.dumps({
                "title": self._title, "what": state.what, "done": state.done, "total": state.total,
                "unit": self._unit, "rate": round(state.rate, 3),
                "seconds_left": None if left is None else round(left, 1), "rss_bytes": _rss()}))
            self._printed = now


class _Bar:
    def __init__(self, title: str, unit: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        self._task: TaskID | None = None
        self._memory, self._measured = "", 0.0
        # on a narrow terminal the description is cut, no number is
        self._bar = Progress(
            TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=12), TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit, justify="right"),
            TextColumn("{task.fields[rate]:,.0f}/s", justify="right"),
            TextColumn("{task.fields[memory]}", justify="right"), TimeRemainingColumn(),
            console=Console(stderr=True), expand=True)
        self._bar.start()
        self._bar.console.print(title, markup=False, highlight=False)

    def show(self, new: bool, state: _State) -> None:
        if (now := time.monotonic()) - self._measured >= _MEMORY_SECONDS:
            self._memory, self._measured = _size(_rss()), now
        from rich.markup import escape

        shown: dict[str, Any] = {"completed": state.done, "rate": state.rate, "memory": self._memory}
        if new or self._task is None:  # all at once: the bar is drawn by a thread of its own
            self._task = self._bar.add_task(escape(state.what), total=state.total, **shown)
        else:
            self._bar.update(self._task, description=escape(state.what), **shown)

    def close(self) -> None:
        self._bar.stop()


def _line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _rss() -> int:
    """Bytes of this process in memory."""
    import psutil

    return psutil.Process().memory_info().rss


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
