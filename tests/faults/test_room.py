"""A part of `tests.faults.room`, in the suite: some sizes of a full disk, folders that take nothing, budgets."""

from __future__ import annotations

import itertools

import pytest

from tests.faults import pipeline, room


@pytest.fixture(scope="module")
def small():
    with room.rooms(mount=room.can_mount()) as found:
        yield found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("stage", pipeline.STAGES)
def test_a_disk_that_fills_is_told_and_once_there_is_room_it_goes_on(small, stage, monkeypatch):
    monkeypatch.setattr(room, "_PAGE", 5 * 4096)
    verdicts = list(itertools.islice(small.sizes(stage), 6))
    assert verdicts and [why for why in verdicts if why is not None] == []


@pytest.mark.parametrize("stage", pipeline.STAGES)
def test_a_folder_that_takes_no_files_costs_no_work(small, stage):
    assert small.read_only(stage) is None


def test_scratch_may_lie_on_another_file_system(small):
    assert list(small.scratch_elsewhere()) == [None] * len(pipeline.STAGES)


def test_a_budget_of_memory_is_kept(small):
    verdicts = list(room.budgets())
    assert len(verdicts) > 200 and [why for why in verdicts if why is not None] == []
