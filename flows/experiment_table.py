"""The results of an experiment: every row over the seeds, in how many of them each claim holds, and the page of it."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.experiment_index import counted
from flows.experiment_spec import Claim, Experiment, ExperimentError, Picture, Size
from nfk import tracking

_MADE = ("seeds", "date", "seconds", "machine", "own_copies", "platform", "git.", "version.")


def read(name: str, spec: Experiment, size: Size, workspaces: dict[tuple[str, int], Path]) -> dict[str, Any]:
    """From the workspace of each part and seed, with what it ran on."""
    seeds = sorted({seed for _, seed in workspaces})
    values = {row.name: [row.read(workspaces[row.part, seed]) for seed in seeds] for row in spec.rows}
    return {
        "experiment": name, "size": size, "seeds": seeds, "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}", **tracking.provenance(), **_over(spec, values)}


def check_alike(spec: Experiment, kept: dict[str, Any]) -> None:
    """ExperimentError where kept results are of other rows than the experiment has now."""
    if [row["name"] for row in kept["rows"]] != [row.name for row in spec.rows]:
        raise ExperimentError(f"{kept['experiment']}: the kept results have other rows; run all seeds, without --seed")


def joined(spec: Experiment, kept: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """`found` with the kept results of other seeds, which `check_alike` has passed."""
    had = {row["name"]: dict(zip(kept["seeds"], row["values"], strict=True)) for row in kept["rows"]}
    new = {row["name"]: dict(zip(found["seeds"], row["values"], strict=True)) for row in found["rows"]}
    seeds = sorted({*kept["seeds"], *found["seeds"]})
    values = {name: [(had[name] | new[name])[seed] for seed in seeds] for name in new}
    earlier = [{key: run[key] for key in run if key.startswith(_MADE)} | {"seeds": left}
               for run in (*kept.get("earlier", ()), kept)
               if (left := [seed for seed in _own_seeds(run) if seed not in found["seeds"]])]
    return found | {"seeds": seeds, "earlier": earlier, **_over(spec, values)}


def page(spec: Experiment, found: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [f"# {spec.title}", "", f"{spec.reproduces}. {spec.question}", "",
             f"Size `{found['size']}`, {counted(len(found['seeds']))}, {_made(found)}."
             + "".join(f" Of these seed {_listed(run['seeds'])}: {_made(run)}." for run in found.get("earlier", ())),
             "", "| | here, mean ± standard error | paper |", "|---|---|---|"]
    lines += [f"| {row['name']} | {_shown(row)} | {row['paper']} |" for row in found["rows"]]
    if found["claims"]:
        lines += ["", "| claim | holds on | by |", "|---|---|---|"]
        lines += [f"| {claim['says']} | {claim['holds']} of {counted(claim['of'])} | {_shown(claim, points=True)} |"
                  for claim in found["claims"]]
    for picture in spec.pictures:
        lines += ["", f"![{picture.shows}]({picture_name(picture, found['experiment'], found['size'])})", "",
                  f"{picture.shows} (seed {found['seeds'][0]})"]
    return "\n".join([*lines, *(["", spec.notes.strip()] if spec.notes else [])]) + "\n"


def _made(run: dict[str, Any]) -> str:
    return (f"{run['seconds']} s for what was not there before, on {run['machine']}, {run['date']}, commit "
            f"{run.get('git.commit', 'none')[:10]}"
            + "".join(f"; {source}: a copy given" for source in run.get("own_copies", ())))


def _own_seeds(run: dict[str, Any]) -> list[int]:
    """Those that this run made itself."""
    others = {seed for earlier in run.get("earlier", ()) for seed in earlier["seeds"]}
    return [seed for seed in run["seeds"] if seed not in others]


def _listed(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, seeds))


def _over(spec: Experiment, values: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "rows": [{"name": row.name, "values": values[row.name], "mean": statistics.fmean(values[row.name]),
                  "standard_error": _standard_error(values[row.name]), "paper": row.paper, "shown": row.shown}
                 for row in spec.rows],
        "claims": [_judged(claim, values, {row.name: row.shown for row in spec.rows}) for claim in spec.claims]}


def _judged(claim: Claim, values: dict[str, list[float]], shown: dict[str, str]) -> dict[str, Any]:
    """A claim, in how many seeds it holds, and by how much: seed by seed, since the seeds differ by more."""
    by = [a - b for a, b in zip(values[claim.more], values[claim.than], strict=True)]
    return {"says": claim.says, "holds": sum(each > 0 for each in by), "of": len(by), "mean": statistics.fmean(by),
            "standard_error": _standard_error(by), "shown": shown[claim.more]}


def _standard_error(values: list[float]) -> float | None:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def picture_name(picture: Picture, name: str, size: Size) -> str:
    return f"{name}-{size}-{picture.part}-{'-'.join(Path(picture.file).with_suffix('.png').parts[1:])}"


def _shown(row: dict[str, Any], *, points: bool = False) -> str:
    if row["shown"] == "number":
        return f"{row['mean']:.2g}" + ("" if row["standard_error"] is None else f" ± {row['standard_error']:.1g}")
    spread = "" if row["standard_error"] is None else f" ± {100 * row['standard_error']:.1f}"
    return f"{100 * row['mean']:.1f}{spread} {'points' if points else '%'}"
