"""How many threads BLAS and LAPACK take: one for what is small.

OpenBLAS's threads meet at the end of each product, and wait there by spinning. An eigenproblem of n rows has n such
meetings, and where another process holds one of the cores each costs a time slice: 784 rows took 6.2 s on two threads
of two cores beside one busy process, 0.06 s on one thread, and idle, two cores gain no more than a third. A product
meets once, so two threads are worth it sooner; but they spin on afterwards, on cores that XLA's own threads then lack.
The number depends on the size alone, as it may change the last bits.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext

import scipy.linalg  # noqa: F401  has an OpenBLAS of its own, to be found by the first look below
from threadpoolctl import ThreadpoolController

_SMALL_FLOPS = 5e9
_SMALL_ROWS = 4096


@functools.cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()  # a look at all loaded libraries: once


def threads_for(flops: int | float) -> AbstractContextManager:
    """A context for products of so many flops in all: one thread below 5e9, else as many as there are."""
    return _one_thread() if flops < _SMALL_FLOPS else nullcontext()


def threads_for_eigenproblem(rows: int) -> AbstractContextManager:
    """A context for a dense eigenproblem: one thread up to 4,096 rows, else as many as there are."""
    return _one_thread() if rows <= _SMALL_ROWS else nullcontext()


def _one_thread() -> AbstractContextManager:
    return _libraries().limit(limits=1, user_api="blas")
