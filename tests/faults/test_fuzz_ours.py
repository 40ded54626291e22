"""What this project writes, and what it is told, damaged by chance for a while."""

from __future__ import annotations

import pytest

from tests.faults import fuzz_short


@pytest.mark.fuzz
@pytest.mark.parametrize("name", fuzz_short.OURS)
def test_the_reader_only_reads_or_refuses(name):
    fuzz_short.check(name)
