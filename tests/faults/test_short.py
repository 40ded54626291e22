"""A part of the long enumerations, in the suite: each case, each kind of fault, places spread over the run."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from pathlib import Path

import pytest

from tests.faults import damage, enumerate, pipeline, room
from tests.faults.disk import CUTS, FAILURES

EVERY, BITS = 211, 400


@pytest.fixture(scope="module")
def workspace():
    """The small pipeline, compiled once for all tests here."""
    with enumerate.cases() as (enumeration, cases):
        yield enumeration, cases


@pytest.mark.timeout(300)
def test_every_case_survives_its_faults(workspace):
    kinds: Counter[str] = Counter()
    enumeration, cases = workspace
    assert [case.name.partition(",")[0] for case in cases] == [
        "data", "data", "statistics", "statistics", "svd", "svd", "embed", "embed", "spool"]
    for case in cases:
        case.learn()
        points = list(enumeration.points(case))
        for point in points[:: 11 if case.name.startswith("spool") else EVERY]:
            assert enumeration.attempt(case, point) is None, point
            kinds.update(fault.kind for fault in point.faults)
        case.prepare()
        case.run()
    assert set(kinds) == {*FAILURES, *CUTS}
    assert kinds.total() > 60


@pytest.fixture(scope="module")
def small(workspace):
    _, cases = workspace
    return room.Room(Path.cwd(), cases[0].counter, mount=False)


@pytest.mark.parametrize("stage", pipeline.STAGES)
def test_without_room_for_a_file_it_is_told_and_with_room_it_goes_on(small, stage):
    verdicts = list(itertools.islice(small.sizes(stage), 3))
    assert verdicts and [why for why in verdicts if why is not None] == []


@pytest.mark.skipif(os.getuid() == 0 and not room.can_mount(), reason="root may write anywhere, and cannot mount here")
@pytest.mark.parametrize("stage", pipeline.STAGES)
def test_a_folder_that_takes_no_files_costs_no_work(small, stage, monkeypatch):
    monkeypatch.setattr(small, "mount", os.getuid() == 0)
    assert small.read_only(stage) is None


def test_a_budget_of_memory_is_kept():
    verdicts = list(room.budgets())
    assert len(verdicts) > 200 and [why for why in verdicts if why is not None] == []


def test_damage_of_a_store_is_found():
    with damage.stores() as (path, before, other):
        undamaged, kinds = damage.meaning(path), set()
        assert sum(map(len, before.values())) > 16 << 10
        for one in damage.damages(before, other, BITS):
            assert damage.attempt(path, one, before, undamaged) in ("found", "harmless"), one
            kinds.add(one.kind)
    assert len(kinds) == 11
