"""Small products and eigenproblems run on one BLAS thread, large ones on all."""

from __future__ import annotations

import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from nfk.linalg.blas import threads_for, threads_for_eigenproblem


def threads() -> set[int]:
    return {library["num_threads"] for library in ThreadpoolController().select(user_api="blas").info()}


@pytest.mark.parametrize("context, limited", [
    (lambda: threads_for(1e6), True), (lambda: threads_for(1e12), False),
    (lambda: threads_for_eigenproblem(4096), True), (lambda: threads_for_eigenproblem(4097), False)])
def test_threads(context, limited):
    with threadpool_limits(2, user_api="blas"):
        assert threads() == {2}
        with context():
            assert threads() == ({1} if limited else {2})
        assert threads() == {2}
