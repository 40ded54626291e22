"""The stages in an order DVC allows; `dvc.yaml` is the only place that order is written."""

from __future__ import annotations

from collections.abc import Collection
from graphlib import TopologicalSorter
from pathlib import Path


def stage_order(workspace: Path = Path(), families: Collection[str] = ()) -> list[str]:
    """The names of all stages, each after those it depends on.

    With `families` only these families' stages (`svd@gan`) and what they depend on: what needs every family,
    such as the report, is left out.
    """
    from dvc.repo import Repo

    with Repo(str(workspace)) as repo:
        graph = repo.index.graph
        needs = {stage.addressing: [needed.addressing for needed in graph.successors(stage)]
                 for stage in repo.index.stages}
    order = list(TopologicalSorter(needs).static_order())
    if not families:
        return order
    wanted = {name for name in order if name.partition("@")[2] in families}
    for name in reversed(order):
        if name in wanted:
            wanted.update(needs[name])
    return [name for name in order if name in wanted]
