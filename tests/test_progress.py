"""What a log sees of long work: few lines, each with rate and time left."""

from __future__ import annotations

import pytest

from nfk import progress as module
from nfk.progress import progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def lines(clock, capsys):
    def lines(reports):
        with progress("svd@gan") as report:
            for seconds, *said in reports:
                clock[0] += seconds
                report(*said)
        return capsys.readouterr().err.splitlines()

    return lines


def test_a_line_every_ten_seconds_with_rate_and_time_left(lines):
    shown = lines([(0, 0, 1000, "pass 1"), *((1, done, 1000, "pass 1") for done in range(10, 260, 10))])
    assert shown == ["svd@gan: pass 1: 100 of 1,000 examples, 10/s, 1:30 left",
                     "svd@gan: pass 1: 200 of 1,000 examples, 10/s, 1:20 left"]


def test_the_end_is_always_told(lines):
    assert lines([(0, 0, 20, "x"), (2, 20, 20, "x")]) == ["svd@gan: x: 20 of 20 examples, 10/s, done"]


def test_a_note_that_changes_each_time_hides_nothing(lines):
    shown = lines([(0, 0, 100, "loss 9"), *((4, done, 100, f"loss {9 - done}") for done in (1, 2, 3, 4, 5, 6))])
    assert [line.split(":")[1] for line in shown] == [" loss 6", " loss 3"]


def test_resumed_work_shows_its_own_speed(lines):
    assert lines([(0, 900, 1000, "x"), (10, 950, 1000, "x")]) == [
        "svd@gan: x: 950 of 1,000 examples, 5/s, 0:10 left"]


def test_the_next_pass_starts_its_own_clock(lines):
    shown = lines([(0, 0, 100, "1"), (100, 100, 100, "1"), (0, 10, 100, "2"), (9, 100, 100, "2")])
    assert shown[1] == "svd@gan: 2: 100 of 100 examples, 10/s, done"
