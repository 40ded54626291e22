"""Makes a thing in MLflow once, though the answer to a request may be lost after the request arrived."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Made = TypeVar("Made")
RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
TRIES, FIRST_PAUSE = 3, 0.5


def made_once(found: Callable[[], Made | None], make: Callable[[], Made]) -> Made:
    """What `found` finds, else what `make` makes.

    MLflow's client repeats by itself a request that got no answer, and one that creates would create a second time. So
    it is sent a single time, and where it fails `found` tells whether it had arrived; 3 tries, 3.5 s of pauses. What no
    client can tell is a request that still waits inside the server when `found` asks.
    """
    from mlflow.exceptions import MlflowException

    for attempt in range(1, TRIES + 1):
        if (there := found()) is not None:
            return there
        try:
            with _sent_once():
                return make()
        except MlflowException as fault:
            last = fault
        time.sleep(FIRST_PAUSE * 2 ** (attempt - 1))
    if (there := found()) is not None:
        return there
    raise last


@contextmanager
def _sent_once() -> Iterator[None]:
    before = os.environ.get(RETRIES)
    os.environ[RETRIES] = "0"  # MLflow reads it at each request
    try:
        yield
    finally:
        os.environ.pop(RETRIES)
        if before is not None:
            os.environ[RETRIES] = before
