"""The ways to factor the Fisher vectors, one interface: what each costs, which is cheapest here, and the run.

| strategy   | V                      | method                              | gradients per example       |
|------------|------------------------|-------------------------------------|-----------------------------|
| `explicit` | kept whole             | n x n Gram matrix, exact            | 1 (the paper's Algorithm 1) |
| `gram`     | a group of rows kept   | n x n Gram matrix, exact            | n / (2 rows kept) + 2       |
| `panels`   | a group of rows kept   | n x n Gram matrix, exact, W by      | n / (2 rows kept) + 2, and 1 |
|            |                        | panels of its rows into a file      | for each panel after the 1st |
| `cogram`   | one block at a time    | p x p matrix, exact                 | 2                           |
| `stored`   | kept whole             | block Krylov                        | 1                           |
| `stream`   | one block at a time    | block Krylov                        | passes                      |
| `jvp`      | never formed           | subspace iteration by Jacobian      | about 2 l a pass            |
|            |                        | products (the paper's Algorithms    |                             |
|            |                        | 4 to 6), the reference              |                             |
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from nfk.checkpoint import RowCheckpoint
from nfk.fisher.embedding import WORKING
from nfk.fisher.products import JacobianProducts
from nfk.fisher.scores import ScoreError
from nfk.fisher.vectors import FisherVectors
from nfk.linalg import spread
from nfk.linalg.cogram import cogram_svd
from nfk.linalg.eigen import dense
from nfk.linalg.factors import Factors, with_rounding
from nfk.linalg.gram import gram_svd
from nfk.linalg.group import Alone, Group, share
from nfk.linalg.krylov import block_krylov, sample_rows
from nfk.linalg.orthonormal import inner
from nfk.linalg.panels import panel_svd
from nfk.linalg.rows import KeptRows, Progress, RowBlocks, StoredRows, block_count, fused_pass, silent
from nfk.linalg.subspace import subspace_svd

Strategy = Literal["explicit", "gram", "panels", "cogram", "stored", "stream", "jvp"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
BY_GROUPS: tuple[Strategy, ...] = ("stored", "stream")
"""Those that several processes can share"""
LIKELY_PASSES = 6
"""Passes after which block Krylov mostly meets its tolerance, one less where it starts from a sample; bytes are counted
for the most it may take."""
PAPER_POWER_ITERATIONS, PAPER_OVERSAMPLING = 10, 10
"""The paper's Algorithm 4, which `jvp` is"""
_DENSE_EIGEN, _LANCZOS = 9, 100
"""Flops of a symmetric eigenproblem by LAPACK, for each n^3; and by ARPACK, for each n^2 and wanted vector: some 10
products with the matrix, each as slow as 5 for the memory it reads"""
_DOUBLE = 4
"""Times that a flop in float64 takes longer"""
_DISK = 2e8
"""bytes/s, written and read again: taken for granted, no probe writes so much"""
_MOST_PANELS = 64
_PROBED = 1 << 25
"""Numbers of a basis that a probe multiplies by, at most: its rate is that of a larger one"""
_SAMPLING = 8
"""Float64 rows that one sampled in float64 takes while it is computed"""


class MemoryBudgetError(ValueError):
    """No strategy, or not the one asked for, fits the memory it may hold."""


class Machine(NamedTuple):
    """What a timed probe of this model on this device found."""

    gradient_seconds: float
    """one Fisher vector, in a batch of block size"""
    flops: float
    """flop/s of the products of a fused pass"""
    inner_flops: float
    """flop/s of the products of a Gram matrix; in float64 half of that"""


_AGAINST_GRAM = Machine(0.0, 1e12, 1e12 / 2)
"""The least favourable to the Gram matrix: gradients for nothing, its products at half of the others' rate"""


class Plan(NamedTuple):
    """What one strategy would cost: work, memory, and seconds by the probe's rates."""

    strategy: Strategy
    gradient_passes: float
    """gradients per example"""
    product_flops: float
    """in the products after the gradients, and the eigenproblems"""
    bytes: float
    """held at once, on a device and the host together"""
    seconds: float
    """gradients and products, one after the other; reading the data is not counted"""


def probe_machine(vectors: RowBlocks, rank: int) -> Machine:
    """Time one block's gradients, one fused product and one of a Gram matrix, each compiled first."""
    block, gradients = _timed(lambda: vectors.block(0))
    part = block[:, : max(1, _PROBED // rank)]
    one, basis = _OneBlock(part), spread.zeros(part.shape[1], rank, block.dtype)
    _, fused = _timed(lambda: fused_pass(one, basis).right)
    whole = spread.along(block)
    _, gram = _timed(lambda: inner(whole, whole, double=False))
    return Machine(gradients / block.shape[0], 4 * part.size * rank / fused, 2 * block.size * block.shape[0] / gram)


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What the second call gives, and its wall time: the first one compiles."""
    jax.block_until_ready(work())
    started = time.perf_counter()
    result = jax.block_until_ready(work())
    return result, time.perf_counter() - started


class _OneBlock(KeptRows):
    def __init__(self, block: Array) -> None:
        self.shape = (block.shape[0], block.shape[1])
        self.block_rows = block.shape[0]
        self._block = block

    def block(self, index: int) -> Array:
        return self._block


def plans(
    shape: tuple[int, int], machine: Machine, *, rank: int, oversampling: int, passes: int, block_rows: int,
    memory_bytes: int, itemsize: int = 4, whitening_bytes: int = 0,
) -> list[Plan]:
    """What each strategy costs for V of `shape`, cheapest first. Counts: see each method's docstring;
    `whitening_bytes` are held beside by all. Of `stored` and `stream` each of this process's devices holds its part;
    what the others hold is counted as if one held it all."""
    (n, p), memory_bytes = shape, memory_bytes - whitening_bytes
    width, devices = min(rank + oversampling, n, p), jax.local_device_count()
    matrix, working = n * p * itemsize, _working(shape, block_rows, itemsize)
    products, inner = 1 / machine.flops, 1 / machine.inner_flops
    gradients, jacobians = n * machine.gradient_seconds, 2 * (PAPER_POWER_ITERATIONS + 1) * (rank + PAPER_OVERSAMPLING)
    sampled = sample_rows(n, width, passes, block_rows)
    likely = min(passes, LIKELY_PASSES - (sampled > 0))
    krylov_flops = likely * 4 * n * p * width + 6 * p * (likely * width) ** 2
    krylov_bytes = (working + (passes + 3) * p * width * itemsize) / devices + n * rank * itemsize
    krylov_flops64 = likely * 4 * p * width**2 + _eigen_flops(sampled, width)
    krylov_seconds = krylov_flops * products + (sampled**2 * p + _DOUBLE * krylov_flops64) * inner
    gram_flops, gram_flops64 = n**2 * p + 2 * n * p * rank, _eigen_flops(n, rank)
    gram_seconds = 2 * n * p * rank * products + (n**2 * p + _DOUBLE * gram_flops64) * inner
    gram_bytes = working + 2 * p * rank * itemsize + 3 * 8 * n**2
    resident = resident_rows(shape, rank=rank, block_rows=block_rows, memory_bytes=memory_bytes,
                             itemsize=itemsize)
    visits = n / (2 * resident) + 1.5 if resident < n else 0
    cut = panel_cut(shape, rank=rank, block_rows=block_rows, memory_bytes=memory_bytes, itemsize=itemsize)
    count = -(-p // cut.panel_rows)
    passes_by_panels = 1 if cut.kept else (n / (2 * cut.resident_rows) + 1.5 if cut.resident_rows < n else 1) + count
    cogram_flops64 = n * p**2 + _eigen_flops(p, rank)
    cogram_seconds = 2 * n * p * rank * products + _DOUBLE * cogram_flops64 * inner
    found = [
        Plan("explicit", 1, gram_flops + gram_flops64, gram_bytes + matrix, gradients + gram_seconds),
        Plan("gram", visits + 1, gram_flops + gram_flops64, gram_bytes + min(resident, n) * p * itemsize,
             (visits + 1) * gradients + gram_seconds),
        Plan("panels", passes_by_panels, gram_flops + gram_flops64, cut.held_bytes,
             passes_by_panels * gradients + gram_seconds + 2 * p * rank * itemsize / _DISK),
        Plan("cogram", 2, 2 * n * p * rank + cogram_flops64, working + 8 * p**2 * (3 if dense(p, rank) else 1),
             2 * gradients + cogram_seconds),
        Plan("stored", 1, krylov_flops, krylov_bytes + matrix / devices, gradients + krylov_seconds),
        Plan("stream", likely + sampled / n, krylov_flops, krylov_bytes,
             (likely + sampled / n) * gradients + krylov_seconds),
        Plan("jvp", jacobians, 0.0, working * width + 4 * (n + p) * width * itemsize, jacobians * gradients),
    ]
    return sorted((plan._replace(bytes=plan.bytes + whitening_bytes) for plan in found), key=lambda plan: plan.seconds)


def _eigen_flops(size: int, rank: int) -> float:
    return float(_DENSE_EIGEN * size**3 if dense(size, rank) else _LANCZOS * rank * size**2)


def resident_rows(
    shape: tuple[int, int], *, rank: int, block_rows: int, memory_bytes: int, itemsize: int = 4
) -> int:
    """Rows that `gram` keeps at a time: what the memory leaves beside K, in whole blocks, at least one."""
    n, p = shape
    taken = _working(shape, block_rows, itemsize) + 2 * rank * p * itemsize + 3 * 8 * n**2
    rows = max(0, memory_bytes - taken) / (p * itemsize)
    return max(1, int(rows) // block_rows) * block_rows


def _working(shape: tuple[int, int], block_rows: int, itemsize: int) -> int:
    """Bytes that a block of rows takes while it is computed."""
    return WORKING * min(block_rows, shape[0]) * shape[1] * itemsize


class PanelCut(NamedTuple):
    """How `panels` shares the memory out: first among rows of V, for K; then to a panel of W."""

    resident_rows: int
    panel_rows: int
    kept: bool
    """V whole beside a panel: its rows are computed once"""
    held_bytes: int
    """at once, K and a block included"""


def panel_cut(
    shape: tuple[int, int], *, rank: int, block_rows: int, memory_bytes: int, itemsize: int = 4
) -> PanelCut:
    """Panels as few as the memory allows, alike in size, at most 64: more would take more memory than is given."""
    n, p = shape
    least, row = -(-p // _MOST_PANELS), rank * itemsize
    working, matrix, gram = _working(shape, block_rows, itemsize), n * p * itemsize, 3 * 8 * n**2
    kept = working + matrix + max(least * row, gram) <= memory_bytes
    resident = -(-n // block_rows) * block_rows if kept else resident_rows(
        shape, rank=0, block_rows=block_rows, memory_bytes=memory_bytes, itemsize=itemsize)
    held = matrix if kept else 0
    room = (memory_bytes - working - held) // row
    panel = -(-p // -(-p // min(p, max(least, room))))
    rows = min(resident, n) * p * itemsize
    return PanelCut(resident, panel, kept, working + max(rows + gram, held + panel * row))


def plan(
    vectors: FisherVectors, strategy: str, *, rank: int, oversampling: int, passes: int, memory_bytes: int
) -> Plan:
    """The plan of the strategy asked for, or for "auto" of the quickest that fits; MemoryBudgetError if none does.

    Only where it decides anything is the machine probed: for "auto", and not where the Gram matrix wins whatever the
    machine's rates, which it does up to about passes * (rank + oversampling) examples.
    """
    def costs(machine: Machine) -> list[Plan]:
        return plans(vectors.shape, machine, rank=rank, oversampling=oversampling, passes=passes,
                     block_rows=vectors.block_rows, memory_bytes=memory_bytes,
                     itemsize=vectors.scores.dtype.itemsize, whitening_bytes=vectors.whitening_bytes)

    favoured = costs(_AGAINST_GRAM)
    if strategy != "auto":
        return choose(favoured, strategy, memory_bytes)
    if (certain := choose(favoured, "auto", memory_bytes)).strategy == "explicit":
        return certain
    width = min(rank + oversampling, *vectors.shape)
    return choose(costs(probe_machine(vectors, width)), "auto", memory_bytes)


def choose(candidates: list[Plan], strategy: str, memory_bytes: int) -> Plan:
    """The plan asked for, or for "auto" the quickest that fits; MemoryBudgetError when it does not fit."""
    if strategy == "auto":
        eligible = [plan for plan in candidates if plan.strategy != "jvp"]  # the reference, never the quickest
        fitting = [plan for plan in eligible if plan.bytes <= memory_bytes]
        chosen = fitting[0] if fitting else min(eligible, key=lambda plan: plan.bytes)
    else:
        chosen = next(plan for plan in candidates if plan.strategy == strategy)
    if chosen.bytes > memory_bytes:
        raise MemoryBudgetError(
            f"svd.strategy={strategy} needs {chosen.bytes / 2**30:.2f} GiB, above svd.memory_gib="
            f"{memory_bytes / 2**30:.2f}; raise it, or lower svd.rank, svd.passes or svd.block")
    return chosen


def decompose(
    vectors: FisherVectors,
    strategy: Strategy,
    *,
    rank: int,
    key: Key[Array, ""],
    oversampling: int = 16,
    passes: int = 6,
    tolerance: float = 0.0,
    memory_bytes: int = 4 * 2**30,
    checkpoint: RowCheckpoint | None = None,
    group: Group | None = None,
    progress: Progress = silent,
) -> Factors:
    """The leading `rank` modes of V by the strategy named; all agree to their tolerance. `jvp` takes the paper's own
    oversampling and power iterations. The processes of a `group` share the rows, by `stored` and `stream` alone.

    Each s_i^2 comes with an estimate of its error (`Factors.errors`): rounding is judged from one block of gradients
    in float64, where the model can be evaluated in it.
    """
    group = Alone() if group is None else group
    if group.size > 1 and strategy not in BY_GROUPS:
        raise ValueError(f"svd.strategy={strategy} is for one process, here are {group.size}; set it to "
                         f"{' or '.join(BY_GROUPS)}")
    itemsize, memory_bytes = vectors.scores.dtype.itemsize, memory_bytes - vectors.whitening_bytes
    resident = resident_rows(vectors.shape, rank=rank, block_rows=vectors.block_rows, memory_bytes=memory_bytes,
                             itemsize=itemsize)
    cut = panel_cut(vectors.shape, rank=rank, block_rows=vectors.block_rows, memory_bytes=memory_bytes,
                    itemsize=itemsize)
    whole = strategy in ("explicit", "stored") or (strategy == "gram" and resident >= vectors.shape[0]) or (
        strategy == "panels" and cut.kept)
    rows = StoredRows(vectors) if whole else vectors
    _check_range(rows)
    if strategy in ("explicit", "gram"):
        factors = gram_svd(rows, rank=rank, resident_rows=None if whole else resident, progress=progress)
    elif strategy == "panels":
        factors = panel_svd(rows, rank=rank, resident_rows=cut.resident_rows, panel_rows=cut.panel_rows,
                            checkpoint=checkpoint, progress=progress)
    elif strategy == "cogram":
        factors = cogram_svd(vectors, rank=rank, progress=progress)
    elif strategy == "jvp":
        factors = subspace_svd(JacobianProducts(vectors), rank=rank, key=key, oversampling=PAPER_OVERSAMPLING,
                               power_iterations=PAPER_POWER_ITERATIONS, progress=progress)
    else:
        factors = block_krylov(rows, rank=rank, key=key, oversampling=oversampling, passes=passes,
                               tolerance=tolerance, dtype=vectors.scores.dtype, checkpoint=checkpoint,
                               group=group, progress=progress)
    del rows  # the sample takes memory of its own
    own = share(block_count(vectors), group)
    among = [min(bound * vectors.block_rows, vectors.shape[0]) for bound in (own.start, own.stop)]
    at_once = max(1, memory_bytes // (_SAMPLING * 8 * vectors.shape[1]))
    sample = vectors.sample64(-(-_sample(vectors) // group.size), (among[0], among[1]),
                              1 << (at_once.bit_length() - 1))
    return with_rounding(factors, *sample, group)


def _check_range(rows: RowBlocks) -> None:
    """ScoreError where the squares of rows like the first ones leave float32's range, on one side or the other: s_i^2
    would be infinite, zero or anything. Fisher vectors are whitened and seldom do; a tangent kernel's gradients may.
    Where the first ones are too short, or zero, others are looked at until some are long enough."""
    n, p = rows.shape
    known = jnp.finfo(jnp.float32)
    low = float(np.sqrt(float(known.tiny) / float(known.eps) * p))
    high = float(np.sqrt(float(known.max) / (4 * n)))
    longest = 0.0
    for index in range(block_count(rows)):
        block = rows.block(index)
        if block.dtype != jnp.float32:
            return
        longest = max(longest, *(float(np.linalg.norm(row.astype(np.float64))) for row in np.asarray(block)))
        if longest > low:
            break
    if longest != 0 and not low < longest < high:
        raise ScoreError(f"rows of the matrix are as long as {longest:.1e}: outside {low:.0e} to {high:.0e}, where "
                         f"float32 holds their squares; multiply the function by about {1 / longest:.0e}, or give "
                         "params in float64")


def _sample(vectors: FisherVectors) -> int:
    """Rows whose rounding is looked at: a block, less where that is above an eighth of them all or would fill a GiB in
    float64, at least 16."""
    n, p = vectors.shape
    return min(n, max(16, min(vectors.block_rows, n // 8, 2**27 // p)))
