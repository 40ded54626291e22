"""Hands spooled records to the sender process and takes out of the spool what arrived."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from nfk.params import TrackingParams
from nfk.tracking import spool
from nfk.tracking.redaction import redact

_START_SECONDS, _ENTRY_SECONDS = 45.0, 15.0  # MLflow's import and a new database; one record with its figures
_PATIENT_ENTRY_SECONDS = 300.0  # one record where somebody waits for it and each answer takes seconds
_WAIT_SECONDS = 10.0  # for another sender
_QUICK = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
# One try a request, whatever the environment says: the sender repeats whole records, which it can do without making a
# second run. MLflow's own repeats would make one where only the answer was lost.
_QUIET = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
          "MLFLOW_LOGGING_LEVEL": "ERROR", "PYTHONWARNINGS": "ignore"}


class Delivery(NamedTuple):
    """What became of the spool's entries: those sent, and why the first of the others was not."""

    sent: int
    left: int
    fault: str | None


def tracking_uri(params: TrackingParams) -> str:
    """The tracker in force: MLFLOW_TRACKING_URI, else `tracking.uri`. It may hold a password."""
    return os.environ.get("MLFLOW_TRACKING_URI") or params.uri


def deliver(entries: list[Path] | None, params: TrackingParams, *, patient: bool = False) -> Delivery:
    """Send `entries` of the spool, or all of it. Never raises for a fault of the tracker or the spool.

    Costs a Python start and the import of MLflow, about 2 s; a server that refuses, 1 s more; a locked SQLite
    file, the 20 s MLflow waits for it; never more than 45 s (a new database) and 15 s a record, `patient` 300 s: a
    record takes 10 requests and more, and a tracker that needs 5 s for each would else never get it.
    """
    try:
        with spool.sending(wait=_WAIT_SECONDS):
            waiting = [path for path in spool.entries() if entries is None or path in entries]
            if not waiting:
                return Delivery(0, 0, None)
            started = time.monotonic()
            faults, end = _run_sender(waiting, params, _PATIENT_ENTRY_SECONDS if patient else _ENTRY_SECONDS)
            sent = [path for path in waiting if path in faults and faults[path] is None]
            for path in sent:
                spool.remove(path)
            if sent:
                with suppress(OSError):  # then the next stage sends at once
                    spool.mark_sent(time.monotonic() - started)
    except (spool.SpoolBusy, OSError) as error:
        return Delivery(0, len(entries) if entries is not None else len(spool.entries()), redact(str(error)))
    left = len(waiting) - len(sent)
    fault = next((fault for fault in faults.values() if fault is not None), end) if left else None
    return Delivery(len(sent), left, fault)


def _run_sender(entries: list[Path], params: TrackingParams,
                entry_seconds: float) -> tuple[dict[Path, str | None], str]:
    """The fault of each entry tried (None: it arrived), and how the sender itself ended."""
    request = json.dumps({"uri": tracking_uri(params), "experiment": params.experiment,
                          "entries": [str(path) for path in entries]})
    seconds = _START_SECONDS + entry_seconds * len(entries)
    try:
        done = subprocess.run([sys.executable, "-m", "nfk.tracking.mlflow_sink"], input=request.encode(),
                              capture_output=True, timeout=seconds, env=_environment())
        answers, errors = done.stdout, done.stderr
        end = f"the sender ended with exit status {done.returncode}"
    except subprocess.TimeoutExpired as error:
        answers, errors, end = error.stdout or b"", b"", f"no answer within {seconds:.0f} s"
    outcomes = [json.loads(line) for line in answers.splitlines()]
    last_words = errors.decode(errors="replace").strip().splitlines()[-1:]
    return ({Path(outcome["entry"]): outcome["error"] for outcome in outcomes},
            redact(": ".join([end, *last_words])))


def _environment() -> dict[str, str]:
    """This process's environment, quiet and quick, in which `nfk` is the very package that runs here."""
    package_root = str(Path(__file__).parents[2])
    search_path = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
    return _QUICK | os.environ | _QUIET | {"PYTHONPATH": search_path}
