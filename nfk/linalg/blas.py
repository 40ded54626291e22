"""How many threads BLAS takes: one for small products.

Its threads wait for the next call by spinning, on cores that XLA's own threads then lack: on two cores a small product
on two threads costs what follows it more than it saves, and beside another busy process many times more.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext

from threadpoolctl import ThreadpoolController

_SMALL = 5e9


@functools.cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()  # a look at all loaded libraries: once


def threads_for(flops: int | float) -> AbstractContextManager:
    """A context for BLAS and LAPACK calls of so many flops in all: one thread below 5e9, else as many as there are."""
    return _libraries().limit(limits=1, user_api="blas") if flops < _SMALL else nullcontext()
