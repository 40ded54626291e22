"""`nfk experiment NAME`: a named experiment through the same DVC stages, its table beside the paper's figures.

Each part and seed has a workspace of its own under .nfk/experiments, a clone of the commit with the project's DVC
cache. What is finished is not run again, and what was cut off goes on from its last saved block, so that a long one can
be run in slices (`--minutes`).
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flows.experiment_index import RESULTS, write_page
from flows.experiment_spec import Experiment, ExperimentError, Picture, Size, load, params_text
from flows.experiment_table import check_alike, joined, page, picture_name, read
from flows.own_workspace import StagesFailed, committed, prepare, run_stages
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
    seeds: Sequence[int] = (), say: Callable[[str], None] = print,
) -> Path:
    """Run what is missing of the experiment, write its results; the table's file. `sources` has, for a named set that
    the experiment would fetch, a file or folder of it: for a machine without a network. `seeds`: these alone, beside
    the kept results of others; else all of the experiment's, and no others stay.

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
    own = tuple(sorted(set(seeds or spec.sizes[size].seeds)))
    file = RESULTS / f"{name}-{size}.json"
    kept = json.loads(file.read_text(encoding="utf-8")) if seeds and file.exists() else None
    if kept is not None:
        check_alike(spec, kept)
    end = None if minutes is None else time.monotonic() + 60 * minutes
    took = 0.0
    with workspace_lock(WORKSPACES / f"{name}-{size}.lock"):
        for place in (each := list(places(name, spec, size, own))):
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
        found = read(name, spec, size, {(place.part, place.seed): place.folder for place in each}) | {
            "seconds": round(took), "own_copies": sorted(sources)}
        if kept is not None:
            found = joined(spec, kept, found)
    write_json(file, found)
    for picture in spec.pictures if found["seeds"][0] == own[0] else ():
        _keep(picture, name, size, next(place for place in each if place.part == picture.part))
    table = RESULTS / f"{name}-{size}.md"
    table.write_text(page(spec, found), encoding="utf-8")
    write_page(RESULTS)
    return table


def _from_here(part: dict[str, Any], sources: Mapping[str, str]) -> dict[str, Any]:
    """The part with its data read from the copy given, if one is."""
    if (source := part.get("data", {}).get("source")) not in sources:
        return part
    return part | {"data": part["data"] | {"source": str(Path(sources[source]).resolve())}}


def places(name: str, spec: Experiment, size: Size, seeds: Sequence[int]) -> Iterator[Place]:
    """Seed by seed, so that a table with fewer seeds could be had early."""
    for seed in seeds:
        for part in spec.sizes[size].parts:
            yield Place(part, seed, WORKSPACES / f"{name}-{size}-{part}-{seed}")


def _keep(picture: Picture, name: str, size: Size, place: Place) -> None:
    file = place.folder / picture.file
    if not file.exists():
        raise ExperimentError(f"{name}: {file} is not there; correct the picture's file")
    shutil.copyfile(file, RESULTS / picture_name(picture, name, size))
