"""What a log sees of long work: few lines, each with rate and time left."""

from __future__ import annotations

import json
import os
import pty
import re
from contextlib import suppress

import psutil
import pytest

from nfk import progress as module
from nfk.progress import progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "_rss", lambda: 512_000_000)
    monkeypatch.delenv(module.VARIABLE, raising=False)
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
    assert shown == ["svd@gan: pass 1: 100 of 1,000 examples, 10/s, 1:30 left, 512 MB",
                     "svd@gan: pass 1: 200 of 1,000 examples, 10/s, 1:20 left, 512 MB"]


def test_the_end_is_always_told(lines):
    assert lines([(0, 0, 20, "x"), (2, 20, 20, "x")]) == ["svd@gan: x: 20 of 20 examples, 10/s, done, 512 MB"]


def test_a_note_that_changes_each_time_hides_nothing(lines):
    shown = lines([(0, 0, 100, "loss 9"), *((4, done, 100, f"loss {9 - done}") for done in (1, 2, 3, 4, 5, 6))])
    assert [line.split(":")[1] for line in shown] == [" loss 6", " loss 3"]


def test_resumed_work_shows_its_own_speed(lines):
    assert lines([(0, 900, 1000, "x"), (10, 950, 1000, "x")]) == [
        "svd@gan: x: 950 of 1,000 examples, 5/s, 0:10 left, 512 MB"]


def test_the_next_pass_starts_its_own_clock(lines):
    shown = lines([(0, 0, 100, "1"), (100, 100, 100, "1"), (0, 10, 100, "2"), (9, 100, 100, "2")])
    assert shown[1] == "svd@gan: 2: 100 of 100 examples, 10/s, done, 512 MB"


def test_json_is_an_object_a_line_at_most_one_a_second(lines, monkeypatch):
    monkeypatch.setenv(module.VARIABLE, "json")
    shown = [json.loads(line) for line in lines([
        (0, 0, 100, "pass 1"), *((0.25, done, 100, "pass 1") for done in range(5, 101, 5))])]
    assert shown[0] == {"title": "svd@gan", "what": "pass 1", "done": 0, "total": 100, "unit": "examples", "rate": 0.0,
                        "seconds_left": None, "rss_bytes": 512_000_000}
    assert [(said["done"], said["rate"], said["seconds_left"]) for said in shown[1:]] == [
        (20, 20.0, 4.0), (40, 20.0, 3.0), (60, 20.0, 2.0), (80, 20.0, 1.0), (100, 20.0, 0.0)]


def test_quiet_says_nothing_but_warnings(lines, monkeypatch, capsys):
    monkeypatch.setenv(module.VARIABLE, "none")
    assert lines([(0, 0, 10, "x"), (100, 5, 10, "x"), (1, 10, 10, "x")]) == []
    module.told("svd@gan", "a summary")
    module.told("svd@gan", "a check failed", warning=True)
    assert capsys.readouterr().err == "svd@gan: a check failed\n"


def test_what_is_said_is_an_object_too_under_json(clock, monkeypatch, capsys):
    monkeypatch.setenv(module.VARIABLE, "json")
    module.told("svd@gan", "a summary")
    module.told("svd@gan", "a check failed", warning=True)
    assert [json.loads(line) for line in capsys.readouterr().err.splitlines()] == [
        {"title": "svd@gan", "said": "a summary"}, {"title": "svd@gan", "warning": "a check failed"}]


def test_another_mode_is_refused(monkeypatch):
    monkeypatch.setenv(module.VARIABLE, "jsno")
    with pytest.raises(ValueError, match="NFK_PROGRESS=jsno: must be auto, lines, json or none"), progress("x"):
        pass


def test_the_bar_shows_rate_memory_and_time_left_on_80_columns(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    with open(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        with progress("svd@gan (stream)") as report:
            report(0, 3000, "pass 4 of at most 10")
            clock[0] += 1
            report(1500, 3000, "pass 4 of at most 10")
    shown = ""
    with suppress(OSError):  # the terminal's end
        while part := os.read(ours, 1 << 16):
            shown += part.decode(errors="replace")
    os.close(ours)
    drawn = [re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", line).strip() for line in shown.splitlines()]
    assert next(filter(None, drawn)) == "svd@gan (stream)"
    last = [line for line in drawn if "examples" in line][-1]
    assert re.fullmatch(r"pass 4 of at most 10 +\S+ 1,500/3,000 examples 1,500/s 512 MB [-\d]:[-\d]+:[-\d]+", last)


def test_memory_is_this_process_s_own():
    assert module._rss() == pytest.approx(psutil.Process().memory_info().rss, rel=0.1)
