"""What of the named experiments has been run: one line an experiment and size, kept as a page beside the tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from flows.experiment_spec import FOLDER, Size, load, names

RESULTS = FOLDER / "results"
PAGE = RESULTS / "README.md"


class Entry(NamedTuple):
    name: str
    size: Size
    title: str
    reproduces: str
    expects: str
    run: str | None
    """day, seeds, commit of its results; None where it was not run"""
    claims: tuple[str, ...]
    """each with the number of seeds it holds on"""


def entries(results: Path = RESULTS) -> list[Entry]:
    """All experiments at all their sizes, by name."""
    found = []
    for name in names():
        spec = load(name)
        for size, scale in spec.sizes.items():
            file = results / f"{name}-{size}.json"
            run: str | None = None
            claims: tuple[str, ...] = ()
            if file.exists():
                kept = json.loads(file.read_text(encoding="utf-8"))
                run = f"{kept['date']}, {counted(len(kept['seeds']))}, commit {kept.get('git.commit', 'none')[:10]}"
                claims = tuple(f"{claim['says']}: {claim['holds']} of {claim['of']}" for claim in kept["claims"])
            found.append(Entry(name, size, spec.title, spec.reproduces, scale.expects, run, claims))
    return found


def write_page(results: Path = RESULTS) -> None:
    """The entries as Markdown, in results/README.md."""
    lines = ["# Experiments, and what of them was run", "",
             "Made by `nfk experiment NAME`; `nfk experiment` lists them in a terminal.", "",
             "| experiment | what | size | run | claims that hold, of so many seeds |", "|---|---|---|---|---|"]
    for entry in entries(results):
        name = f"[{entry.name}]({entry.name}-{entry.size}.md)" if entry.run else entry.name
        run = entry.run or f"not run ({entry.expects})"
        lines.append(f"| {name} | {entry.title}: {entry.reproduces} | {entry.size} | {run} | "
                     f"{'<br>'.join(entry.claims) or '–'} |")
    (results / PAGE.name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def counted(seeds: int) -> str:
    """"1 seed", "2 seeds"."""
    return f"{seeds} seed{'s' if seeds > 1 else ''}"
