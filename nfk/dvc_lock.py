"""DVC's own lock of a workspace: who else runs a stage in it, and what a DVC that was killed left.

DVC writes its number and command into `.dvc/tmp/rwlock` while a stage runs, and holds `rwlock.lock` for the moment in
which it rewrites that file. Killed in that moment it leaves the file empty, and every later DVC ends with "JSON
structure is corrupted" (treeverse/dvc#7615).
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import psutil

from nfk import durable

RWLOCK = Path(".dvc/tmp/rwlock")
_LONGEST_REWRITE, _POLL = 3.0, 0.02  # seconds; DVC itself waits as long


def other_dvc(path: Path = RWLOCK) -> str | None:
    """The DVC that writes a stage's results here, as "`COMMAND`, process N"; None where there is none.

    The file that a killed DVC left is removed, empty or with processes that are gone: their numbers may be others' by
    now, and DVC would take those for itself.
    """
    if not path.exists():
        return None
    with durable.lock_file(path.with_name(f"{path.name}.lock")) as guard:
        deadline = time.monotonic() + _LONGEST_REWRITE
        while not durable.hold(guard.fileno()):
            if time.monotonic() > deadline:
                return f"`dvc`, which holds {guard.name}"
            time.sleep(_POLL)
        try:
            held = json.loads(path.read_bytes())
            writers = list(held.get("write", {}).values())
            readers = [reader for of_path in held.get("read", {}).values() for reader in of_path]
            written = path.stat().st_mtime
            living = [one for one in (*writers, *readers) if _lives(one["pid"], written)]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError):
            writers, living = [], []
        if not living:
            durable.remove(path)
        writing = [one for one in living if one in writers]
    return f"`{writing[0]['cmd']}`, process {writing[0]['pid']}" if writing else None


def _lives(pid: Any, written: float) -> bool:
    """Whether that number is still the process written down: one begun later, and no DVC, only has it by now."""
    try:
        process = psutil.Process(pid)
        return process.create_time() <= written or "dvc" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
