"""How much memory this process has taken, and what a factor may take where nobody says."""

from __future__ import annotations

import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
BUDGET_GIB = 4.0
"""For a right factor and the rows it meets, where an embedder is used without a params.yaml"""
REMEDY = ("end other programs, or lower the stage's block and svd.memory_gib in params.yaml; the same command goes on "
          "from the last saved block")
"""where memory runs out"""


def peak_bytes() -> int:
    """The most bytes this process has held in memory at once, so far.

    Linux's own count where there is one: `getrusage`'s begins at the peak of whatever process started this one.
    """
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
