"""`nfk experiment NAME`: a named experiment through the same DVC stages, its table beside the paper's figures.

Each part and seed has a workspace of its own under .nfk/experiments, a clone of the commit with the project's DVC
cache. What is finished is not run again, and what was cut off goes on from its last saved block, so that a long one can
be run in slices (`--minutes`).
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from flows.experiment_index import RESULTS, counted, write_page
from flows.experiment_spec import Claim, Experiment, ExperimentError, Picture, Size, load, params_text
from flows.own_workspace import StagesFailed, committed, prepare, run_stages
from nfk import tracking
from nfk.store import write_json
from nfk.workspace_lock import workspace_lock

WORKSPACES = Path(".nfk/experiments")


class Unfinished(RuntimeError):
    """The time given is over; the same command goes on."""


class Place(NamedTuple):
    """The workspace of one part and seed."""

    part: str
    seed: int
    folder: Path


def experiment(
    name: str, size: Size = "cpu", *, minutes: float | None = None, sources: Mapping[str, str] | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Run what is missing of the experiment, write its results; the table's file. `sources` has, for a named set that
    the experiment would fetch, a file or folder of it: for a machine without a network.

    Unfinished when `minutes` are over, StagesFailed where a stage failed, ExperimentError for what is not there.
    """
    spec, commit = load(name), committed(str(RESULTS))
    if size not in spec.sizes:
        raise ExperimentError(f"{name} has no size {size!r}; there are {', '.join(spec.sizes)}")
    spec, sources = spec.at(size), sources or {}
    named = {part["data"]["source"] for part in spec.sizes[size].parts.values() if "source" in part.get("data", {})}
    if unknown := sorted(set(sources) - named):
        raise ExperimentError(f"--source {unknown[0]}: {name} at size {size} reads no such set"
                              + (f"; it reads {', '.join(sorted(named))}" if named else " and fetches none"))
    end = None if minutes is None else time.monotonic() + 60 * minutes
    took = 0.0
    with workspace_lock(WORKSPACES / f"{name}-{size}.lock"):
        for place in places(name, spec, size):
            text = params_text(_from_here(spec.sizes[size].parts[place.part], sources), place.seed)
            prepare(place.folder, commit, text)
            left = 86_400.0 * 30 if end is None else end - time.monotonic()
            if left <= 0:
                raise Unfinished(f"{minutes:g} minutes are over before {place.folder.name}; the same command goes on")
            say(f"{place.folder.name}: {spec.sizes[size].expects}")
            started = time.monotonic()
            try:
                run_stages(place.folder, say, seconds=left)
            except StagesFailed as error:
                if end is not None and time.monotonic() >= end:
                    raise Unfinished(f"{minutes:g} minutes are over in {place.folder.name}; the same command goes "
                                     "on") from error
                raise
            took += time.monotonic() - started
        found = results(name, spec, size) | {"seconds": round(took), "own_copies": sorted(sources)}
    write_json(RESULTS / f"{name}-{size}.json", found)
    for picture in spec.pictures:
        _keep(picture, name, size, next(place for place in places(name, spec, size) if place.part == picture.part))
    table = RESULTS / f"{name}-{size}.md"
    table.write_text(page(spec, found), encoding="utf-8")
    write_page(RESULTS)
    return table


def _from_here(part: dict[str, Any], sources: Mapping[str, str]) -> dict[str, Any]:
    """The part with its data read from the copy given, if one is."""
    if (source := part.get("data", {}).get("source")) not in sources:
        return part
    return part | {"data": part["data"] | {"source": str(Path(sources[source]).resolve())}}


def places(name: str, spec: Experiment, size: Size) -> Iterator[Place]:
    """Seed by seed, so that a table with fewer seeds could be had early."""
    scale = spec.sizes[size]
    for seed in scale.seeds:
        for part in scale.parts:
            yield Place(part, seed, WORKSPACES / f"{name}-{size}-{part}-{seed}")


def results(name: str, spec: Experiment, size: Size) -> dict[str, Any]:
    """Every row's numbers over the seeds, in how many of them each claim holds, and what it ran on."""
    seeds = spec.sizes[size].seeds
    folder = {(place.part, place.seed): place.folder for place in places(name, spec, size)}
    values = {row.name: [row.read(folder[row.part, seed]) for seed in seeds] for row in spec.rows}
    return {
        "experiment": name, "size": size, "seeds": list(seeds), "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}", **tracking.provenance(),
        "rows": [{"name": row.name, "values": values[row.name], "mean": statistics.fmean(values[row.name]),
                  "standard_error": _standard_error(values[row.name]), "paper": row.paper, "shown": row.shown}
                 for row in spec.rows],
        "claims": [_judged(claim, values, {row.name: row.shown for row in spec.rows}) for claim in spec.claims],
    }


def page(spec: Experiment, found: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [f"# {spec.title}", "", f"{spec.reproduces}. {spec.question}", "",
             f"Size `{found['size']}`, {counted(len(found['seeds']))}, {found['seconds']} s for what was not there "
             f"before, on {found['machine']}, {found['date']}, commit {found.get('git.commit', 'none')[:10]}."
             + "".join(f" {source}: a copy given." for source in found.get("own_copies", ())), "",
             "| | here, mean ± standard error | paper |", "|---|---|---|"]
    lines += [f"| {row['name']} | {_shown(row)} | {row['paper']} |" for row in found["rows"]]
    if found["claims"]:
        lines += ["", "| claim | holds on | by |", "|---|---|---|"]
        lines += [f"| {claim['says']} | {claim['holds']} of {counted(claim['of'])} | {_shown(claim, points=True)} |"
                  for claim in found["claims"]]
    for picture in spec.pictures:
        lines += ["", f"![{picture.shows}]({_picture_name(picture, found['experiment'], found['size'])})", "",
                  f"{picture.shows} (seed {found['seeds'][0]})"]
    return "\n".join([*lines, *(["", spec.notes.strip()] if spec.notes else [])]) + "\n"


def _judged(claim: Claim, values: dict[str, list[float]], shown: dict[str, str]) -> dict[str, Any]:
    """A claim, in how many seeds it holds, and by how much: seed by seed, since the seeds differ by more."""
    by = [a - b for a, b in zip(values[claim.more], values[claim.than], strict=True)]
    return {"says": claim.says, "holds": sum(each > 0 for each in by), "of": len(by), "mean": statistics.fmean(by),
            "standard_error": _standard_error(by), "shown": shown[claim.more]}


def _standard_error(values: list[float]) -> float | None:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def _keep(picture: Picture, name: str, size: Size, place: Place) -> None:
    file = place.folder / picture.file
    if not file.exists():
        raise ExperimentError(f"{name}: {file} is not there; correct the picture's file")
    shutil.copyfile(file, RESULTS / _picture_name(picture, name, size))


def _picture_name(picture: Picture, name: str, size: Size) -> str:
    return f"{name}-{size}-{picture.part}-{'-'.join(Path(picture.file).with_suffix('.png').parts[1:])}"


def _shown(row: dict[str, Any], *, points: bool = False) -> str:
    if row["shown"] == "number":
        return f"{row['mean']:.2g}" + ("" if row["standard_error"] is None else f" ± {row['standard_error']:.1g}")
    spread = "" if row["standard_error"] is None else f" ± {100 * row['standard_error']:.1f}"
    return f"{100 * row['mean']:.1f}{spread} {'points' if points else '%'}"
