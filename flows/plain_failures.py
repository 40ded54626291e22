"""Failures whose message is the whole explanation are logged without a traceback."""

from __future__ import annotations

import logging


class WithoutTraceback(logging.Filter):
    """Drops the traceback of `errors` from a logger's records.

    Prefect logs one at the task and one at the flow, some sixty lines of its own frames, between a failed
    stage's output and the line that says which stage failed.
    """

    def __init__(self, *errors: type[Exception]) -> None:
        super().__init__()
        self._errors = errors

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], self._errors):
            record.exc_info = None
        return True
