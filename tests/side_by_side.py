"""All tests: those of the flows in a process of their own, beside the others.

    python -m tests.side_by_side [OPTION of pytest for the others ...]

Prefect's logging keeps the streams of the test that was first, so the flows' tests cannot share a process. What they
say comes whole when they end. Ctrl-C reaches both.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from typing import IO

PYTEST = [sys.executable, "-m", "pytest"]
FLOWS = "tests/flows"


def main(options: list[str]) -> int:
    with tempfile.TemporaryFile() as said:
        flows = subprocess.Popen([*PYTEST, FLOWS], stdout=said, stderr=subprocess.STDOUT)
        shown = threading.Thread(target=_shown, args=(flows, said))
        shown.start()
        others = subprocess.Popen([*PYTEST, *options, f"--ignore={FLOWS}"])
        try:
            others.wait()
        except KeyboardInterrupt:  # theirs too, from the terminal
            others.wait()
        shown.join()
    return flows.returncode or others.returncode


def _shown(process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
    process.wait()
    said.seek(0)
    sys.stdout.write(said.read().decode(errors="replace"))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
