"""Small products run on one BLAS thread, large ones on all."""

from __future__ import annotations

import pytest
from threadpoolctl import ThreadpoolController

from nfk.linalg.blas import threads_for


def threads() -> set[int]:
    return {library["num_threads"] for library in ThreadpoolController().select(user_api="blas").info()}


@pytest.mark.parametrize("flops, limited", [(1e6, True), (1e12, False)])
def test_threads(flops, limited):
    before = threads()
    with threads_for(flops):
        assert threads() == ({1} if limited else before)
    assert threads() == before
