"""What was tried and what survived, printed and kept as it is found; a part run alone replaces its own rows."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.environment import environment


class Tally:
    """The rows of one results file. `keep` False: told only, as of a thinned run."""

    def __init__(self, results: Path, *, keep: bool = True, **about: Any) -> None:
        self._results, self._keep, self._about, self._begun = results, keep, about, time.monotonic()
        kept = json.loads(results.read_text()) if results.exists() else {"rows": []}
        self._rows = {row["fault"]: row for row in kept["rows"]}
        self.wrong: list[str] = []

    def tell(self, fault: str, verdicts: Sequence[str | None]) -> None:
        """Of each time tried: None where it survived, else what was lost."""
        bad = [why for why in verdicts if why is not None]
        self.wrong.extend(bad)
        self._rows[fault] = {"fault": fault, "tried": len(verdicts), "survived": len(verdicts) - len(bad), "lost": bad}
        print(*bad, f"{fault}: {len(verdicts) - len(bad)} of {len(verdicts)}, {time.monotonic() - self._begun:.0f} s",
              sep="\n", flush=True)
        if self._keep:
            self._results.write_text(json.dumps(
                {"environment": environment(), **self._about, "rows": list(self._rows.values())}, indent=1) + "\n")
