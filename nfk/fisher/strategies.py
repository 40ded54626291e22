"""The ways to factor the Fisher vectors, one interface: what each costs, which is cheapest here, and the run.

| strategy   | V                      | method                    | gradients per example       |
|------------|------------------------|---------------------------|-----------------------------|
| `explicit` | kept whole             | Gram matrix, exact        | 1 (the paper's Algorithm 1) |
| `gram`     | a group of rows kept   | Gram matrix, exact        | n / (2 rows kept) + 2       |
| `stored`   | kept whole             | block Krylov              | 1                           |
| `stream`   | one block at a time    | block Krylov              | passes                      |
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from nfk.checkpoint import Checkpoint
from nfk.linalg.factors import Factors
from nfk.linalg.gram import gram_svd
from nfk.linalg.krylov import block_krylov
from nfk.linalg.orthonormal import inner64
from nfk.linalg.rows import Progress, RowBlocks, StoredRows, block_count, fused_pass, silent

Strategy = Literal["explicit", "gram", "stored", "stream"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
LIKELY_PASSES = 6
"""Passes after which block Krylov mostly meets its tolerance; bytes are counted for the most it may take."""


class MemoryBudgetError(ValueError):
    """No strategy, or not the one asked for, fits the memory it may hold."""


class Machine(NamedTuple):
    """What a timed probe of this model on this device found."""

    gradient_seconds: float
    """one Fisher vector, in a batch of block size"""
    flops: float
    """flop/s of the products of a fused pass"""
    flops64: float
    """flop/s of products summed in float64"""


class Plan(NamedTuple):
    """What one strategy would cost."""

    strategy: Strategy
    gradient_passes: float
    """gradients per example"""
    product_flops: float
    bytes: float
    """held at once, on the device and the host together"""
    seconds: float


def probe_machine(vectors: RowBlocks, rank: int) -> Machine:
    """Time one block's gradients, one fused product and one float64 product, each compiled first."""
    block = vectors.block(0)
    gradient = _seconds(lambda: vectors.block(0)) / block.shape[0]
    one = _OneBlock(block)
    basis = jnp.zeros((vectors.shape[1], rank), block.dtype)
    return Machine(gradient, 4 * block.size * rank / _seconds(lambda: fused_pass(one, basis).right),
                   2 * block.size * block.shape[0] / _seconds(lambda: inner64(block, block)))


def _seconds(work: Callable[[], Any]) -> float:
    """Wall time of the second call: the first one compiles."""
    jax.block_until_ready(work())
    started = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - started


class _OneBlock:
    def __init__(self, block: Array) -> None:
        self.shape = (block.shape[0], block.shape[1])
        self.block_rows = block.shape[0]
        self._block = block

    def block(self, index: int) -> Array:
        return self._block


def plans(
    shape: tuple[int, int], machine: Machine, *, rank: int, oversampling: int, passes: int, block_rows: int,
    memory_bytes: int, itemsize: int = 4,
) -> list[Plan]:
    """What each strategy costs for V of `shape`, cheapest first. Counts: see each method's docstring."""
    n, p = shape
    width = min(rank + oversampling, n, p)
    matrix, working = n * p * itemsize, 4 * min(block_rows, n) * p * itemsize
    likely = min(passes, LIKELY_PASSES)
    krylov_flops, krylov_flops64 = likely * 4 * n * p * width, 4 * p * (likely * width) ** 2
    krylov_bytes = working + (passes + 3) * p * width * itemsize + passes * n * width * itemsize
    gram_flops, gram_flops64 = 2 * n * p * rank, n**2 * p + 9 * n**3
    gram_bytes = working + 2 * p * rank * itemsize + 3 * 8 * n**2
    resident = resident_rows(shape, rank=rank, block_rows=block_rows, memory_bytes=memory_bytes,
                             itemsize=itemsize)
    visits = n / (2 * resident) + 1.5 if resident < n else 1
    gram_seconds = gram_flops / machine.flops + gram_flops64 / machine.flops64
    krylov_seconds = krylov_flops / machine.flops + krylov_flops64 / machine.flops64
    gram, krylov = gram_flops + gram_flops64, krylov_flops + krylov_flops64
    gradients = n * machine.gradient_seconds
    return sorted([
        Plan("explicit", 1, gram, gram_bytes + matrix, gradients + gram_seconds),
        Plan("gram", visits + 1, gram, gram_bytes + min(resident, n) * p * itemsize,
             (visits + 1) * gradients + gram_seconds),
        Plan("stored", 1, krylov, krylov_bytes + matrix, gradients + krylov_seconds),
        Plan("stream", likely, krylov, krylov_bytes, likely * gradients + krylov_seconds),
    ], key=lambda plan: plan.seconds)


def resident_rows(
    shape: tuple[int, int], *, rank: int, block_rows: int, memory_bytes: int, itemsize: int = 4
) -> int:
    """Rows that `gram` keeps at a time: what the memory leaves beside K, in whole blocks, at least one."""
    n, p = shape
    working = (4 * min(block_rows, n) + 2 * rank) * p * itemsize + 3 * 8 * n**2
    rows = max(0, memory_bytes - working) / (p * itemsize)
    return max(1, int(rows) // block_rows) * block_rows


def choose(candidates: list[Plan], strategy: str, memory_bytes: int) -> Plan:
    """The plan asked for, or for "auto" the quickest that fits; MemoryBudgetError when it does not fit."""
    if strategy == "auto":
        fitting = [plan for plan in candidates if plan.bytes <= memory_bytes]
        chosen = fitting[0] if fitting else min(candidates, key=lambda plan: plan.bytes)
    else:
        chosen = next(plan for plan in candidates if plan.strategy == strategy)
    if chosen.bytes > memory_bytes:
        raise MemoryBudgetError(
            f"svd.strategy={strategy} needs {chosen.bytes / 2**30:.2f} GiB, above svd.memory_gib="
            f"{memory_bytes / 2**30:.2f}; raise it, or lower svd.rank, svd.passes or svd.block")
    return chosen


def decompose(
    vectors: RowBlocks,
    strategy: Strategy,
    *,
    rank: int,
    key: Key[Array, ""],
    oversampling: int = 16,
    passes: int = 6,
    tolerance: float = 0.0,
    memory_bytes: int = 4 * 2**30,
    dtype: np.dtype | type = np.float32,
    checkpoint: Checkpoint | None = None,
    progress: Progress = silent,
) -> Factors:
    """The leading `rank` modes of V by the strategy named; all agree to their tolerance."""
    if strategy in ("explicit", "gram"):
        rows = StoredRows(vectors) if strategy == "explicit" else vectors
        resident = None if strategy == "explicit" else resident_rows(
            vectors.shape, rank=rank, block_rows=vectors.block_rows, memory_bytes=memory_bytes,
            itemsize=np.dtype(dtype).itemsize)
        if resident is not None and resident >= block_count(vectors) * vectors.block_rows:
            resident = None
        return gram_svd(rows, rank=rank, resident_rows=resident, progress=progress)
    rows = StoredRows(vectors) if strategy == "stored" else vectors
    return block_krylov(rows, rank=rank, key=key, oversampling=oversampling, passes=passes,
                        tolerance=tolerance, dtype=dtype, checkpoint=checkpoint, progress=progress)
