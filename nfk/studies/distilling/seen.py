"""What a transfer loss compares: one batch as the student and as the teacher see it, layers side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Pair = tuple[str, str]
"""Names of a layer of the student and of the teacher's that it is compared with."""


class Maps(NamedTuple):
    """Feature maps of one pair of layers, of one size."""

    student: Float[Array, "b h w c"]
    teacher: Float[Array, "b h w d"]


class Seen(NamedTuple):
    """One batch in both networks; nothing of the teacher's is differentiated."""

    maps: tuple[Maps, ...]
    """the pairs, from the image to the logits"""
    features: Float[Array, "b f"]
    """the student's penultimate layer"""
    logits: Float[Array, "b classes"]
    teacher_logits: Float[Array, "b classes"]
    embedding: Float[Array, "b k"]
    """Q_t of the images as they are, whatever crop of them the networks see"""


def map_shapes(
    activations: Callable[[Array], Mapping[str, Array]], image_shape: tuple[int, int, int]
) -> dict[str, tuple[int, int, int]]:
    """Height, width and channels of the last map of each size, by layer, in the network's order. Computes nothing."""
    met: dict[tuple[int, int], tuple[str, tuple[int, int, int]]] = {}

    def note(x: Array) -> Array:
        for name, output in activations(x).items():  # here and not from the result, whose names JAX puts in order
            if output.ndim == 4:
                height, width, channels = output.shape[1:]
                met[height, width] = (name, (height, width, channels))
        return x

    jax.eval_shape(note, jax.ShapeDtypeStruct((2, *image_shape), jnp.float32))
    return dict(met.values())


def paired(
    student: Mapping[str, tuple[int, int, int]], teacher: Mapping[str, tuple[int, int, int]]
) -> tuple[Pair, ...]:
    """Each map of the network that has fewer of them with the one nearest in size (by ratio of areas) of the other.

    Two wide ResNets: the ends of their three groups of blocks, the layers that attention transfer and its successors
    compare.
    """
    def nearest(shape: tuple[int, int, int], among: Mapping[str, tuple[int, int, int]]) -> str:
        return min(among, key=lambda name: abs(math.log(shape[0] * shape[1] / math.prod(among[name][:2]))))

    if len(student) <= len(teacher):
        return tuple((name, nearest(shape, teacher)) for name, shape in student.items())
    return tuple((nearest(shape, student), name) for name, shape in teacher.items())


def compared(
    pairs: Sequence[Pair], student: Mapping[str, Float[Array, "b ..."]], teacher: Mapping[str, Float[Array, "b ..."]]
) -> tuple[Maps, ...]:
    """The pairs' maps, the larger of each averaged down to the smaller's size."""
    maps = []
    for ours, theirs in pairs:
        mine, other = student[ours].shape, teacher[theirs].shape
        size = (min(mine[1], other[1]), min(mine[2], other[2]))
        maps.append(Maps(averaged(student[ours], size), averaged(teacher[theirs], size)))
    return tuple(maps)


def averaged(maps: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b u v c"]:
    """The means over u x v equal parts of each map; a place cut by a border counts by its share on either side."""
    if maps.shape[1:3] == size:
        return maps
    down, right = (jnp.asarray(_shares(old, new), maps.dtype) for old, new in zip(maps.shape[1:3], size, strict=True))
    return jnp.einsum("uh,bhwc,vw->buvc", down, maps, right)


def _shares(old: int, new: int) -> Float[np.ndarray, "new old"]:
    edges = np.arange(new + 1) * old / new
    upper, lower = np.minimum(edges[1:, None], np.arange(1, old + 1)), np.maximum(edges[:-1, None], np.arange(old))
    return np.maximum(upper - lower, 0) * new / old
