"""All tests: those of the flows, then those that must reach every branch, in processes of their own beside the others.

    python -m tests.side_by_side [OPTION of pytest for the others ...]
    python -m tests.side_by_side covered [OPTION ...]       those that must reach every branch alone

Prefect's logging keeps the streams of the test that was first, so the flows' tests cannot share a process. What reads
and writes what is on disk has every branch tried ([tool.coverage] in pyproject.toml says which modules that is). What
these say comes whole when they end. Ctrl-C reaches all.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from typing import IO

PYTEST = [sys.executable, "-m", "pytest"]
FLOWS, LOCK = "tests/flows", "tests/flows/test_workspace_lock.py"
COVERED = [
    "tests/data", "tests/faults/test_durable.py", "tests/models/test_card.py", "tests/models/test_torch_file.py",
    "tests/registry/test_entries.py", "tests/report/test_metrics.py", "tests/service/test_frames.py",
    "tests/service/test_gate.py", "tests/service/test_images.py", "tests/service/test_neighbours.py",
    "tests/stages/test_depended.py", "tests/stages/test_registered.py", "tests/test_checkpoint.py",
    "tests/test_dvc_lock.py", "tests/test_embedder_folder.py", "tests/test_experiment_spec.py", "tests/test_names.py",
    "tests/test_one_line.py", "tests/test_params.py", "tests/test_shared_store.py", "tests/test_side_by_side.py",
    "tests/test_store.py", "tests/tracking/test_lineage.py", "tests/tracking/test_record.py",
    "tests/tracking/test_redaction.py", "tests/tracking/test_spool.py",
]
_COVERAGE = ["--cov", "--cov-report=term-missing:skip-covered", *COVERED, LOCK]
_PARTS = ([FLOWS, f"--ignore={LOCK}"], _COVERAGE)


def main(options: list[str]) -> int:
    if options[:1] == ["covered"]:
        return subprocess.call([*PYTEST, *_COVERAGE, *options[1:]])
    codes: list[int] = []
    stopped = threading.Event()
    with tempfile.TemporaryFile() as said:
        beside = threading.Thread(target=_run, args=(said, codes, stopped))
        beside.start()
        others = subprocess.Popen([*PYTEST, *options, *(f"--ignore={path}" for path in (FLOWS, *COVERED))])
        for ended in (others.wait, beside.join):
            try:
                ended()
            except KeyboardInterrupt:  # theirs too, from the terminal
                stopped.set()
                ended()
    if len(codes) < len(_PARTS):
        print(f"not run to its end: {' '.join(_PARTS[len(codes)])}")
    return next(filter(None, [*codes, others.returncode]), int(len(codes) < len(_PARTS)))


def _run(said: IO[bytes], codes: list[int], stopped: threading.Event) -> None:
    """One part after another; what they said is shown at their end."""
    for arguments in _PARTS:
        if stopped.is_set():
            return
        at = said.tell()
        code = subprocess.call([*PYTEST, *arguments], stdout=said, stderr=subprocess.STDOUT)
        said.seek(at)
        sys.stdout.flush()
        sys.stdout.buffer.write(said.read())
        sys.stdout.buffer.flush()
        codes.append(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
