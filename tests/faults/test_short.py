"""A part of the long enumerations, in the suite: each case, each kind of fault, places spread over the run."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.faults import damage, enumerate
from tests.faults.disk import CUTS, FAILURES

EVERY, BITS = 211, 400


@pytest.mark.timeout(300)
def test_every_case_survives_its_faults():
    kinds: Counter[str] = Counter()
    with enumerate.cases() as (enumeration, cases):
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


def test_damage_of_a_store_is_found():
    with damage.stores() as (path, before, other):
        undamaged, kinds = damage.meaning(path), set()
        assert sum(map(len, before.values())) > 16 << 10
        for one in damage.damages(before, other, BITS):
            assert damage.attempt(path, one, before, undamaged) in ("found", "harmless"), one
            kinds.add(one.kind)
    assert len(kinds) == 11
