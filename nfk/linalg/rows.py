"""A matrix V in R^(n x p) known by blocks of rows, and the products made in one pass over them.

The blocks are the unit of work everywhere: the same cut of the rows in every pass makes every pass see the
same matrix, and every sum run in the same order, so that a resumed pass ends on the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nfk.checkpoint import Forgetful, RowCheckpoint, RowFile
from nfk.linalg import spread
from nfk.linalg.tall import Tall


class RangeError(ValueError):
    """Numbers of the matrix, or their products, leave the range of its precision."""


Progress = Callable[[int, int, str], None]
"""Called with (rows done, rows in all, what)."""


def silent(done: int, total: int, what: str) -> None:
    """The Progress that shows nothing: the default everywhere."""


@runtime_checkable
class RowBlocks(Protocol):
    """V by blocks: block i holds rows [i * block_rows, min(n, (i + 1) * block_rows))."""

    shape: tuple[int, int]
    block_rows: int

    def block(self, index: int) -> Float[Array, "b p"]:
        """Rows of block `index`; the same bits at each call."""

    def image(self, index: int, right: Float[Array, "p r"]) -> Float[Array, "b r"]:
        """Those rows times `right`; where rows are computed, they need not be kept for it."""


class KeptRows:
    """The image of rows that are in memory."""

    def image(self: RowBlocks, index: int, right: Float[Array, "p r"]) -> Float[Array, "b r"]:
        """Rows of block `index` times `right`: 2 b p r flops."""
        return _image(self.block(index), right)


class DenseRows(KeptRows):
    """A matrix that is in memory, seen by blocks of rows."""

    def __init__(self, matrix: Float[np.ndarray, "n p"] | Float[Array, "n p"], block_rows: int = 256) -> None:
        self.shape = (matrix.shape[0], matrix.shape[1])
        self.block_rows = block_rows
        self._matrix = matrix

    def block(self, index: int) -> Float[Array, "b p"]:
        """Rows of block `index`, on the device."""
        start, stop = block_bounds(self, index)
        return jnp.asarray(self._matrix[start:stop])


class SomeRows:
    """Those rows of others that are in some blocks: in ascending order, no other than the last one short."""

    def __init__(self, rows: RowBlocks, blocks: Sequence[int]) -> None:
        self._rows, self._blocks = rows, blocks
        bounds = [block_bounds(rows, index) for index in blocks]
        self.shape = (sum(stop - start for start, stop in bounds), rows.shape[1])
        self.block_rows = rows.block_rows

    def block(self, index: int) -> Float[Array, "b p"]:
        """Rows of the block that is number `index` of these."""
        return self._rows.block(self._blocks[index])

    def image(self, index: int, right: Float[Array, "p r"]) -> Float[Array, "b r"]:
        """The same rows times `right`, (p, r)."""
        return self._rows.image(self._blocks[index], right)


class StoredRows(KeptRows):
    """Any rows, or those of some blocks, kept after they were first computed: a float for each number, for passes that
    cost only their products."""

    def __init__(self, rows: RowBlocks, blocks: Sequence[int] | None = None) -> None:
        self._rows = rows if blocks is None else SomeRows(rows, blocks)
        self.shape, self.block_rows = self._rows.shape, rows.block_rows
        self._kept: dict[int, Float[Array, "b p"]] = {}

    def block(self, index: int) -> Float[Array, "b p"]:
        """Rows of block `index`, computed at the first call and kept."""
        if index not in self._kept:
            self._kept[index] = self._rows.block(index)
        return self._kept[index]


def block_count(rows: RowBlocks) -> int:
    """How many blocks the n rows are cut into: n / block_rows, rounded up."""
    return -(-rows.shape[0] // rows.block_rows)


def block_bounds(rows: RowBlocks, index: int) -> tuple[int, int]:
    """The first row of block `index`, and the one after its last."""
    start = index * rows.block_rows
    return start, min(rows.shape[0], start + rows.block_rows)


class Pass(NamedTuple):
    """What one fused pass over V with Q gives."""

    left: RowFile
    """Y = V Q, n x r"""
    right: Float[Array, "p r"]
    """Z = V^T Y = V^T V Q, spread like Q (`nfk.linalg.spread`)"""
    squared_norm: float
    """||V||_F^2, row norms in V's precision, their sum in float64"""


def fused_pass(
    rows: RowBlocks,
    basis: Float[Array, "p r"],
    *,
    checkpoint: RowCheckpoint | None = None,
    name: str = "pass",
    label: str = "pass",
    progress: Progress = silent,
) -> Pass:
    """Y = V Q and Z = V^T Y, each row of V computed once.

    Cost: one pass (one gradient per example) and 4 n p r flops. Memory: one block (b p), basis and Z (2 p r), spread
    over the devices there are; Y goes to a file. With a checkpoint, an interrupted pass goes on after the last save and
    ends on the same bits.
    """
    checkpoint = Forgetful() if checkpoint is None else checkpoint
    count, (n, p) = basis.shape[1], rows.shape
    left = checkpoint.rows(name, count, basis.dtype)
    right = spread.zeros(p, count, basis.dtype)
    squared, first = 0.0, 0
    kept = checkpoint.load(name)
    if kept is not None and left.checksum(block_bounds(rows, int(kept["blocks"][0]))[0]) == int(kept["crc"][0]):
        first, squared = int(kept["blocks"][0]), float(kept["squared_norm"][0])
        right = spread.laid(kept["right"])
    for index in range(first, block_count(rows)):
        start, stop = block_bounds(rows, index)
        block_left, right, norms = _accumulate(rows.block(index), basis, right)
        left.write(start, np.asarray(block_left))
        squared += (norm := float(np.sum(np.asarray(norms), dtype=np.float64)))
        check_range(np.isfinite(norm), start, stop, norms.dtype)
        progress(stop, n, label)
        if checkpoint.due():
            left.sync()
            checkpoint.save(name, {"blocks": np.array([index + 1]), "squared_norm": np.array([squared]),
                                   "crc": np.array([left.checksum(stop)]), "right": spread.whole(right, p)})
    check_range(jnp.isfinite(right).all(), 0, n, right.dtype)
    return Pass(left, right, squared)


def check_range(finite: Any, start: int, stop: int, dtype: np.dtype) -> None:
    """RangeError unless what was made of the squares of rows start to stop is `finite`: a later eigenproblem would fail
    on it, or find nothing."""
    if not finite:
        raise RangeError(f"rows {start} to {stop - 1} of the matrix: {np.dtype(dtype).name} cannot hold the squares of "
                         "some, so long are they; look at those examples, give params in float64, or take the strategy "
                         "gram, explicit or cogram, which run in one process")


@jax.jit
def _accumulate(
    block: Float[Array, "b p"], basis: Float[Array, "q r"], right: Float[Array, "q r"]
) -> tuple[Float[Array, "b r"], Float[Array, "q r"], Float[Array, " b"]]:
    block = spread.along(block)
    left = jnp.matmul(block, basis, precision="highest")
    right = spread.by_rows(right + jnp.matmul(block.T, left, precision="highest"))
    return left, right, jnp.einsum("bp,bp->b", block, block, precision="highest")


ImageBlocks = Iterator[tuple[int, int, Float[np.ndarray, "b k"]]]
"""(index of the block after it, its first row, rows of V W)"""


def image_blocks(
    rows: RowBlocks, right: Float[Array, "p k"], first: int, progress: Progress, label: str
) -> ImageBlocks:
    """V W from block `first` on: 2 n p k flops, one block in memory."""
    for index in range(first, block_count(rows)):
        start, stop = block_bounds(rows, index)
        image = np.asarray(rows.image(index, right))
        progress(stop, rows.shape[0], label)
        yield index + 1, start, image


def image_pass(
    rows: RowBlocks, right: Float[Array, "p k"], *, label: str = "pass", progress: Progress = silent
) -> Float[np.ndarray, "n k"]:
    """V W: one pass and 2 n p k flops. Memory: one block and the result."""
    return in_memory(rows, right, image_blocks(rows, right, 0, progress, label))


def in_memory(
    rows: RowBlocks, right: Float[Array, "p k"] | Tall, blocks: ImageBlocks
) -> Float[np.ndarray, "n k"]:
    """V W of its blocks."""
    image = np.empty((rows.shape[0], right.shape[1]), right.dtype)
    for _, start, block in blocks:
        image[start : start + len(block)] = block
    return image


def in_file(
    rows: RowBlocks, right: Float[Array, "p k"] | Tall, blocks: Callable[[int], ImageBlocks],
    checkpoint: RowCheckpoint,
) -> RowFile:
    """V W of the blocks that `blocks` makes from a given one on, in a file: memory does not grow with n. What was
    interrupted goes on after the last save, on the same bits."""
    image, first = checkpoint.rows("image", right.shape[1], right.dtype), 0
    kept = checkpoint.load("image")
    if kept is not None and image.checksum(block_bounds(rows, int(kept["blocks"][0]))[0]) == int(kept["crc"][0]):
        first = int(kept["blocks"][0])
    for after, start, block in blocks(first):
        image.write(start, block)
        if checkpoint.due():
            image.sync()
            checkpoint.save("image", {"blocks": np.array([after]),
                                      "crc": np.array([image.checksum(start + len(block))])})
    return image


@jax.jit
def _image(block: Float[Array, "b p"], right: Float[Array, "p k"]) -> Float[Array, "b k"]:
    return jnp.matmul(block, right, precision="highest")


def adjoint_pass(
    rows: RowBlocks, left: Float[np.ndarray, "n r"], *, label: str = "pass", progress: Progress = silent
) -> Float[Array, "p r"]:
    """V^T Y, spread over the devices there are (`nfk.linalg.spread`): one pass and 2 n p r flops."""
    right = spread.zeros(rows.shape[1], left.shape[1], left.dtype)
    for index in range(block_count(rows)):
        start, stop = block_bounds(rows, index)
        right = _adjoint(rows.block(index), jnp.asarray(left[start:stop]), right)
        progress(stop, rows.shape[0], label)
    return right


@jax.jit
def _adjoint(
    block: Float[Array, "b p"], left: Float[Array, "b r"], right: Float[Array, "q r"]
) -> Float[Array, "q r"]:
    return spread.by_rows(right + jnp.matmul(spread.along(block).T, left, precision="highest"))
