"""Truncated SVD of a V whose right factor W (p x k) is too large for the memory: W by panels of its rows, in a file.

K = V V^T gives s and U as in `nfk.linalg.gram`. Then W = V^T U diag(1 / s) is made panel after panel: one more pass
over V for each, of which only the panel's columns are used, and from the accumulators straight to a file. New rows are
projected the same way round: a group of them is held while W streams by.
"""

from __future__ import annotations

import time
import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from nfk.checkpoint import Checkpoint, Forgetful, RowCheckpoint, RowFile
from nfk.linalg.factors import Factors
from nfk.linalg.gram import Modes, gram_modes
from nfk.linalg.rows import ImageBlocks, Progress, RowBlocks, block_bounds, block_count, silent
from nfk.linalg.tall import FiledFactor, Tall

_PIECE = 1 << 16
"""Rows of W summed in one array: what a sum needs beside it is no larger"""
_SAVES = 10
"""Times as long as a save of a panel took that the sums go on before another: gigabytes are not written every while"""
READ_BYTES = 64 << 20
"""Of W read at once for a projection: a shard of the store it lies in"""


def panel_svd(
    rows: RowBlocks, *, rank: int, resident_rows: int, panel_rows: int, checkpoint: RowCheckpoint | None = None,
    progress: Progress = silent,
) -> Factors:
    """The leading `rank` modes of V, W read from a file: `nfk.linalg.tall.FiledFactor`.

    Cost: that of `gram_matrix`, the eigenvectors, and p / panel_rows passes of 2 n panel_rows k flops each. Memory:
    K and `resident_rows` rows of V, then a panel, panel_rows k; one block beside each. Disk: p k numbers, and where
    there is a checkpoint two panels more. Resumes from `checkpoint` on the same bits: in K after the last save, at the
    price of the rows that were held; in a panel after the last save; no whole panel is made again, whatever
    `panel_rows` is then. Returns fewer than `rank` modes where V has no more. Raises RankError if rank exceeds
    min(n, p) or V is zero.
    """
    checkpoint = Forgetful() if checkpoint is None else checkpoint
    modes = _modes(rows, rank, resident_rows, checkpoint, progress)
    values, left = modes.singular_values, modes.left
    file = checkpoint.rows("right", len(values), left.dtype)
    made = _image(rows, left, file, panel_rows, checkpoint, progress)
    # V^T U is s W to the rows' round-off: what is not, is the residual
    lengths = np.sqrt(made.squares.sum(axis=0))
    residuals = (np.abs(lengths - values) + float(jnp.finfo(left.dtype).eps) * values) / values[0]
    peaks = np.take_along_axis(made.peaks, np.argmax(np.abs(made.peaks), axis=0)[None, :], axis=0)[0]
    signs = np.where(peaks < 0, -1, 1).astype(left.dtype)
    right = FiledFactor(file, rows.shape[1], lengths, signs)
    return Factors(values, left * signs[None, :], right, residuals, modes.squared_norm,
                   modes.passes + len(made.stops), modes.errors)


def _modes(
    rows: RowBlocks, rank: int, resident_rows: int, checkpoint: Checkpoint, progress: Progress
) -> Modes:
    """`gram_modes`, made or found whole: other eigenvectors than those that panels were made with would be no use."""
    if (kept := checkpoint.load("modes")) is not None:
        return Modes(kept["singular_values"], kept["left"], float(kept["squared_norm"][0]), int(kept["passes"][0]),
                     kept["errors"])
    modes = gram_modes(rows, rank=rank, resident_rows=resident_rows, checkpoint=checkpoint, progress=progress)
    checkpoint.save("modes", {
        "singular_values": modes.singular_values, "left": modes.left, "errors": modes.errors,
        "squared_norm": np.array([modes.squared_norm]), "passes": np.array([modes.passes])})
    return modes


class _Made(NamedTuple):
    """What is known of m whole panels of V^T U in a file."""

    stops: Int[np.ndarray, " m"]
    """the row after each one's last"""
    crcs: Int[np.ndarray, " m"]
    squares: Float[np.ndarray, "m k"]
    """sum of squares of each column's part"""
    peaks: Float[np.ndarray, "m k"]
    """its first entry of largest magnitude"""

    @property
    def rows(self) -> int:
        """Rows of W that are made."""
        return int(self.stops[-1]) if len(self.stops) else 0


def _image(
    rows: RowBlocks, left: Float[np.ndarray, "n k"], file: RowFile, panel_rows: int, checkpoint: RowCheckpoint,
    progress: Progress,
) -> _Made:
    """V^T U, panel by panel into the file."""
    p, made = rows.shape[1], _found(checkpoint, file, left.shape[1])
    while (start := made.rows) < p:
        stop = min(p, start + panel_rows)
        whole = len(made.stops) + -(-(p - start) // panel_rows)
        label = f"right factor, panel {len(made.stops) + 1} of {whole}"
        made = _with(made, file, start, _panel(rows, left, start, stop, checkpoint, label, progress))
        file.sync()
        checkpoint.save("panels", made._asdict())
    return made


def _found(checkpoint: Checkpoint, file: RowFile, k: int) -> _Made:
    """The whole panels of an interrupted run, up to the first that is not what it was."""
    kept = checkpoint.load("panels")
    made = _Made(np.zeros(0, int), np.zeros(0, int), np.zeros((0, k)), np.zeros((0, k))) if kept is None else _Made(
        **kept)
    starts = [0, *made.stops.tolist()]
    good = 0
    while good < len(made.stops) and file.checksum(starts[good + 1], starts[good]) == int(made.crcs[good]):
        good += 1
    return _Made(*(values[:good] for values in made))


def _with(made: _Made, file: RowFile, start: int, panel: list[Float[Array, "_ k"]]) -> _Made:
    """A panel written from row `start` on, and what is known with it."""
    crc, squares, peaks, at = 0, 0.0, [], start
    for piece in panel:
        values = np.asarray(piece)
        file.write(at, values)
        crc, at = zlib.crc32(values.tobytes(), crc), at + len(values)
        squares = squares + np.einsum("pk,pk->k", values, values, dtype=np.float64)
        peaks.append(_peaks(values))
    found = np.array(peaks)
    return _Made(np.append(made.stops, at), np.append(made.crcs, crc), np.vstack([made.squares, squares]),
                 np.vstack([made.peaks, _peaks(found)]))


def _peaks(values: Float[np.ndarray, "q k"]) -> Float[np.ndarray, " k"]:
    """The first entry of largest magnitude in each column."""
    return np.take_along_axis(values, np.argmax(np.abs(values), axis=0)[None, :], axis=0)[0].astype(np.float64)


def _panel(
    rows: RowBlocks, left: Float[np.ndarray, "n k"], start: int, stop: int, checkpoint: RowCheckpoint, label: str,
    progress: Progress,
) -> list[Float[Array, "_ k"]]:
    """Rows start to stop of V^T U, in pieces, summed in V's precision; from where an interrupted pass left them."""
    n, k = left.shape
    spare = checkpoint.rows("panel", k, left.dtype)
    again = 0.0
    first, slot, panel = _begun(checkpoint, spare, start, stop, left)
    for index in range(first, block_count(rows)):
        low, high = block_bounds(rows, index)
        block, weights, at = rows.block(index), jnp.asarray(left[low:high]), start
        for place, piece in enumerate(panel):
            panel[place] = _add(block, weights, piece, at)
            at += len(piece)
        del block
        progress(high, n, label)
        if checkpoint.due() and high < n and time.monotonic() >= again:
            began = time.monotonic()
            slot = 1 - slot  # in turn: a kill while one is written leaves the other
            at, crc = slot * (stop - start), 0
            for piece in panel:
                values = np.asarray(piece)
                spare.write(at, values)
                at, crc = at + len(values), zlib.crc32(values.tobytes(), crc)
            spare.sync()
            checkpoint.save("panel", {"place": np.array([start, stop, index + 1, slot]), "crc": np.array([crc])})
            took = time.monotonic() - began
            again = time.monotonic() + (_SAVES * took if took > 1 else 0)
    return panel


def _begun(
    checkpoint: Checkpoint, spare: RowFile, start: int, stop: int, left: Float[np.ndarray, "n k"]
) -> tuple[int, int, list[Float[Array, "_ k"]]]:
    """The block to go on with, which half of the file has the sums of those before it, and these sums."""
    bounds = [(at, min(stop, at + _PIECE)) for at in range(start, stop, _PIECE)]
    if (kept := checkpoint.load("panel")) is not None:
        *same, blocks, slot = kept["place"].tolist()
        lies = slot * (stop - start)
        if same == [start, stop] and spare.checksum(lies + stop - start, lies) == int(kept["crc"][0]):
            sums = [jnp.array(spare.read(lies + low - start, lies + high - start)) for low, high in bounds]
            return blocks, slot, sums
    return 0, 1, [jnp.zeros((high - low, left.shape[1]), left.dtype) for low, high in bounds]


@jax.jit(donate_argnums=2)
def _add(
    block: Float[Array, "b p"], left: Float[Array, "b k"], piece: Float[Array, "q k"], start: int | Array
) -> Float[Array, "q k"]:
    part = lax.dynamic_slice_in_dim(block, start, len(piece), axis=1)
    return piece + jnp.matmul(part.T, left, precision="highest")


def panel_image_blocks(
    rows: RowBlocks, right: Tall, first: int, progress: Progress, label: str, *, resident_rows: int,
    read_rows: int | None = None,
) -> ImageBlocks:
    """V W from block `first` on for a W that is read by rows: `nfk.linalg.rows.image_blocks` for one that does not fit
    the memory.

    `resident_rows` rows of V, in whole blocks, at least one, are held while W streams by, `read_rows` of its rows at a
    time (None: 64 MiB), and come as one. Cost: one pass, 2 n p k flops, and W read n / resident_rows times. Memory: the
    rows, and what is read of W. Products are summed over the parts of W in float64.
    """
    (n, p), k = rows.shape, right.shape[1]
    read_rows = max(1, READ_BYTES // (k * np.dtype(right.dtype).itemsize)) if read_rows is None else read_rows
    group = max(1, resident_rows // rows.block_rows)
    for begin in range(first, block_count(rows), group):
        end = min(block_count(rows), begin + group)
        held = []
        for index in range(begin, end):
            held.append(rows.block(index))
            progress(block_bounds(rows, index)[1], n, label)
        sums = [np.zeros((len(block), k)) for block in held]
        for start in range(0, p, read_rows):
            part = jnp.asarray(np.asarray(right[start : min(p, start + read_rows)]))
            for place, block in enumerate(held):
                sums[place] += np.asarray(_times(block, part, start))
        del held
        with np.errstate(over="ignore"):  # what float32 cannot hold comes as an infinity, as it does of XLA
            found = np.concatenate(sums).astype(right.dtype)
        yield end, block_bounds(rows, begin)[0], found


@jax.jit
def _times(block: Float[Array, "b p"], part: Float[Array, "q k"], start: int | Array) -> Float[Array, "b k"]:
    return jnp.matmul(lax.dynamic_slice_in_dim(block, start, len(part), axis=1), part, precision="highest")
