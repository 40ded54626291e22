"""Tall matrices spread over the devices of this process: each of D devices holds p / D of their rows.

Rows of V are computed with each device's own examples. For products with a spread Q they are re-laid along p, one
all-to-all of b x p numbers: then V^T Y needs nothing of other devices, and V Q one sum of b x r. What is between tall
matrices alone is a product with a small matrix, for which each device has its rows, or a Gram matrix, of which each
device's part is summed on the host. So no device ever holds a tall matrix whole.

Where p is no multiple of D, rows of zeros are added at the end: products with small matrices leave them zero.

With one device these are arrays like any other.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Key

from nfk.devices import DEVICES, local_mesh
from nfk.linalg.tall import ReadByRows, Tall


def rows_for(p: int) -> int:
    """p, or with the rows of zeros a multiple of D."""
    devices = jax.local_device_count()
    return -(-p // devices) * devices


def zeros(p: int, columns: int, dtype: Any) -> Float[Array, "q r"]:
    """Of p rows and those added."""
    return jnp.zeros((p, columns), dtype) if local_mesh() is None else _zeros(p, columns, dtype)


def normal(key: Key[Array, ""], p: int, columns: int, dtype: Any) -> Float[Array, "q r"]:
    """Standard normal numbers, the same whatever D."""
    return jax.random.normal(key, (p, columns), dtype) if local_mesh() is None else _normal(key, p, columns, dtype)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _zeros(p: int, columns: int, dtype: Any) -> Float[Array, "q r"]:
    return by_rows(jnp.zeros((rows_for(p), columns), dtype))


@partial(jax.jit, static_argnums=(1, 2, 3))
def _normal(key: Key[Array, ""], p: int, columns: int, dtype: Any) -> Float[Array, "q r"]:
    drawn = by_rows(jax.random.normal(key, (rows_for(p), columns), dtype))
    return jnp.where(jnp.arange(len(drawn))[:, None] < p, drawn, jnp.zeros((), dtype))


def laid(tall: Tall) -> Float[Array, "q r"]:
    """p x r numbers on the devices; from the host part by part."""
    if isinstance(tall, SpreadFactor):
        return tall.spread
    if (mesh := local_mesh()) is None:
        return jnp.asarray(tall)
    (p, columns), given = tall.shape, np.asarray(tall)

    def part(places: Any) -> Float[np.ndarray, "_ r"]:
        start, stop, _ = places[0].indices(rows_for(p))
        found = given[start:stop]
        return np.concatenate([found, np.zeros((stop - start - len(found), columns), found.dtype)])

    return jax.make_array_from_callback((rows_for(p), columns), NamedSharding(mesh, PartitionSpec(DEVICES)), part)


def whole(tall: Float[Array, "q r"], p: int) -> Float[np.ndarray, "p r"]:
    """On the host, without the rows added."""
    return np.asarray(tall)[:p]


def parts(matrix: Float[Array, "q r"], axis: int = 0) -> list[Float[Array, "_ _"]]:
    """What each device has of a matrix that is cut along `axis`, in order, as arrays of that device alone; itself if it
    is not cut so."""
    if matrix.sharding.shard_shape(matrix.shape)[axis] == matrix.shape[axis]:
        return [matrix]
    return [shard.data for shard in sorted(matrix.addressable_shards, key=lambda shard: shard.index[axis].start or 0)]


def by_rows(tall: Float[Array, "q r"]) -> Float[Array, "q r"]:
    """To be spread, in a jitted function."""
    mesh = local_mesh()
    return tall if mesh is None else lax.with_sharding_constraint(tall, NamedSharding(mesh, PartitionSpec(DEVICES)))


def along(block: Float[Array, "b p"]) -> Float[Array, "b q"]:
    """Rows of V re-laid along p as tall matrices are: the all-to-all. With one device themselves, not a copy."""
    return block if (mesh := local_mesh()) is None else _along(block, mesh)


@partial(jax.jit, static_argnums=1)
def _along(block: Float[Array, "b p"], mesh: Mesh) -> Float[Array, "b q"]:
    block = jnp.pad(block, ((0, 0), (0, rows_for(block.shape[1]) - block.shape[1])))
    return lax.with_sharding_constraint(block, NamedSharding(mesh, PartitionSpec(None, DEVICES)))


class SpreadFactor(ReadByRows):
    """W, p x k, read by rows from the devices it is spread over."""

    def __init__(self, spread: Float[Array, "q k"], p: int) -> None:
        self.shape, self.dtype = (p, spread.shape[1]), np.dtype(spread.dtype)
        self.spread = spread

    def _read(self, start: int, stop: int) -> Float[np.ndarray, "_ k"]:
        found, at = np.empty((stop - start, self.shape[1]), self.dtype), 0
        for part in parts(self.spread):
            low, high = max(start, at), min(stop, at + len(part))
            if low < high:
                found[low - start : high - start] = lax.dynamic_slice_in_dim(part, low - at, high - low)
            at += len(part)
        return found


def factor(tall: Float[Array, "q k"], p: int) -> Float[Array, "p k"] | SpreadFactor:
    """A right factor as others see it: itself with one device, else read by rows."""
    return tall if local_mesh() is None else SpreadFactor(tall, p)
