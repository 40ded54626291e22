"""Timing: the ways agree, one that costs too much ends with its reason, and what was measured is kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nfk.fisher.vectors import FisherVectors
from nfk.params import ParamsError, parse
from nfk.studies import timing
from nfk.study_params import TimingParams
from tests.studies.conftest import Memory
from tests.studies.made_material import material, silent, two_classes

ROOT = Path(__file__).parents[2]
PARAMS = TimingParams(family="any", rank=6, first=4, last=5)


def made():
    return material(*two_classes(train=60), rank=3)


def test_all_ways_find_the_same_modes_and_are_timed_at_every_number():
    given = made()
    found = timing.run(given, PARAMS, silent)
    ways = found.numbers["ways"]
    assert list(ways) == ["auto", "stream", "jvp", "explicit"]
    exact = np.linalg.svd(given.images.pixels("train", 32).reshape(32, -1) / 255.0, compute_uv=False)[:6] ** 2
    for way, one in ways.items():
        assert list(one["seconds"]) == ["16", "32"] and one["reached"] == 32 and not one["stopped"]
        assert min(one["seconds"].values()) > 0 and one["growth"] is not None
        assert one["apart"] < 1e-3, way
    assert timing.squares(vectors(given, 32), "explicit", PARAMS, given.key("svd"), silent) == pytest.approx(
        exact, rel=1e-3)
    assert ways["stream"]["times_stream"] == 1 and ways["jvp"]["compared_at"] == 32
    assert set(found.figures) == {"seconds"} and len(found.table.rows) == 2 + 3


def vectors(given, n):
    return FisherVectors(given.scores, given.images.examples("train", n), given.statistics, damping=0.0, block_rows=16)


def test_a_way_ends_with_its_reason(monkeypatch):
    given = made()

    def stopped(**change):
        return timing.run(given, PARAMS.model_copy(update=change), silent).numbers["ways"]

    seen = []
    monkeypatch.setattr(timing, "timed", lambda work, first: seen.append(1) or timing.Timed(
        5.0 * 2 ** len(seen), work()))
    timed_out = stopped(ways=("stream",), seconds=25.0, first=3)["stream"]
    assert timed_out["seconds"] == {"8": 10.0, "16": 20.0} and timed_out["reached"] == 16
    assert timed_out["stopped"] == "32 images: 40 s or more, above seconds=25"
    seen.clear()
    assert stopped(ways=("stream",), last=6)["stream"]["stopped"] == "64 images: there are 60 training images"
    short = stopped(ways=("explicit", "auto"), memory_gib=1e-6)
    assert short["explicit"]["reached"] == 0 and short["explicit"]["growth"] is None
    assert short["explicit"]["stopped"].endswith("GiB, above memory_gib=1e-06")
    assert short["auto"]["stopped"] == "16 images: no strategy fits memory_gib=1e-06"
    monkeypatch.setattr(timing, "squares", lambda *_: (_ for _ in ()).throw(MemoryError))
    assert stopped(ways=("stream",))["stream"]["stopped"] == "16 images: the machine has no memory left for them"


def test_the_second_of_two_short_runs_counts_and_a_long_one_is_not_repeated():
    def clock(*times):
        return iter(times).__next__

    def timed(first, *times):
        return timing.timed(lambda: np.ones(1), first=first, clock=clock(*times)).seconds

    assert timed(False, 0, 9, 10, 12) == 2
    assert timed(False, 0, 30) == 30
    assert timed(True, 0, 30, 30, 31) == 1  # most of it was compiling


def test_growth_is_the_slope_over_the_last_three():
    points = {n: timing.Timed(seconds, np.ones(2)) for n, seconds in ((8, 100.0), (16, 1.0), (32, 4.0), (64, 16.0))}
    assert timing.growth(points) == pytest.approx(2)
    assert timing.growth({8: points[8]}) is None


def test_what_was_measured_is_not_measured_again(monkeypatch):
    given, kept = made(), {}
    few = PARAMS.model_copy(update={"ways": ("stream", "explicit")})
    one = timing.run(given._replace(checkpoint=Memory(kept)), few, silent).numbers
    monkeypatch.setattr(timing, "timed", lambda work, first: pytest.fail("measured again"))
    assert timing.run(given._replace(checkpoint=Memory(kept)), few, silent).numbers == one


def test_a_process_takes_the_devices_asked_for_once():
    """They divide the examples, and the modes stay."""
    code = (
        "from nfk.devices import take; take(4)\n"
        "from tests.studies.test_timing import PARAMS, made, silent, timing\n"
        "import numpy as np\n"
        "found = timing.run(made(), PARAMS.model_copy(update={'ways': ('stream', 'explicit')}), silent)\n"
        "assert found.numbers['devices'] == 4 and ' on 4 devices: ' in found.summary, found.summary\n"
        "assert found.numbers['ways']['stream']['apart'] < 1e-3\n"
        "take(2)\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "ValueError: devices=2: JAX has started; choose its devices first"


def test_exponents_out_of_order_are_refused():
    with pytest.raises(ParamsError, match=r"first=9 is above last=8"):
        parse({"families": {"gan": {"model": "dcgan"}},
               "studies": {"time": {"study": "timing", "family": "gan", "first": 9, "last": 8}}})
