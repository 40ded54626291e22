"""Mean score, diagonal Fisher information and, if asked, Kronecker factors of the whole, streamed in float64.

Z = E[g(x)] and I = E[(g(x) - Z)^2], element-wise, over the model's samples x ~ p_theta; of each parameter array
E[G G^T] and E[G^T G], G its centred gradient (`nfk.fisher.kronecker`). Blocks are merged by
Chan, Golub and LeVeque's update (1979): each block's own mean is taken away before squaring, so nothing cancels
however far the mean is from zero, and moments of different blocks, devices or runs merge in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from nfk.checkpoint import Checkpoint, Forgetful
from nfk.fisher.kronecker import inverse_roots, sides_size, sides_sum
from nfk.fisher.parameters import Parameter, parameter_index
from nfk.fisher.scores import Examples, Scores
from nfk.fisher.whitening import Whitening, by_roots
from nfk.linalg.group import Alone, Group, share
from nfk.linalg.rows import Progress, silent


class Moments(NamedTuple):
    """Count, mean and sum of squared deviations of p numbers, float64."""

    count: int  # type: ignore[assignment]  # named as the field wants it: nobody counts a tuple's items here
    mean: Float[np.ndarray, " p"]
    deviations: Float[np.ndarray, " p"]
    """sum (g - mean)^2"""
    sides: Float[np.ndarray, " s"]
    """the same sum of both sides' products; of no numbers where they are not wanted"""
    arrays: tuple[Parameter, ...] = ()
    """the parameter arrays whose sides they are"""

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of examples together; nothing cancels, and the order does not matter but for
        rounding."""
        count = self.count + other.count
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        deviations = self.deviations + other.deviations + shift**2 * (self.count * other.count / count)
        sides = self.sides + other.sides + sides_sum(shift[None, :], self.arrays) * (self.count * other.count / count)
        return Moments(count, mean, deviations, sides, self.arrays)


@runtime_checkable
class Stored(Protocol):
    """Arrays by name, sliced to be read: a dict of them, a `nfk.store.Store`."""

    def __contains__(self, name: str, /) -> bool: ...

    def __getitem__(self, name: str, /) -> Any: ...


class FisherStatistics(NamedTuple):
    """What centres and whitens the scores."""

    mean_score: Float[np.ndarray, " p"]
    """Z, float64"""
    diagonal: Float[np.ndarray, " p"]
    """I, float64"""
    count: int  # type: ignore[assignment]
    """examples in the expectation"""
    sides: Float[np.ndarray, " s"] | None = None
    """Kronecker factors, end to end; None: V is whitened element-wise"""

    @classmethod
    def of_arrays(cls, stored: Stored, count: int = 0) -> FisherStatistics:
        """What `arrays` gave, from a store that holds it."""
        sides = stored["sides"][:] if "sides" in stored else None
        return cls(stored["mean_score"][:], stored["diagonal"][:], count, sides)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by the names they are stored under."""
        found = {"mean_score": self.mean_score, "diagonal": self.diagonal}
        return found if self.sides is None else found | {"sides": self.sides}

    @property
    def dead(self) -> int:
        """Parameters whose score never moved (I = 0 exactly): element-wise it counts as 0, wherever it does move; with
        Kronecker factors where its row or its column of the array never moved either."""
        return int(np.sum(self.diagonal == 0))

    def weight(self, damping: float) -> Float[np.ndarray, " p"]:
        """(I + damping * mean(I))^(-1/2), and 0 where I = 0; float64."""
        if not damping >= 0:
            raise ValueError(f"damping={damping} is below 0; it is relative to the mean of the diagonal")
        damped = self.diagonal + damping * np.mean(self.diagonal)
        alive = self.diagonal > 0
        return np.where(alive, 1 / np.sqrt(np.where(alive, damped, 1.0)), 0.0)

    def whitening(self, index: Sequence[Parameter], *, damping: float, unit_rows: bool = False) -> Whitening:
        """The map of scores to Fisher vectors, NumPy's float64: element-wise by `weight`; or by Kronecker factors where
        there are any, damped relative to the mean of each one's eigenvalues."""
        weight = self.weight(damping)
        if self.sides is None:
            return Whitening(self.mean_score, weight, (), (), unit_rows)
        roots = tuple(inverse_roots(self.sides, index, damping))
        return by_roots(self.mean_score, self.diagonal, roots, index, unit_rows=unit_rows)


def identity_statistics(size: int) -> FisherStatistics:
    """Z = 0 and I = 1: with them the kernel is the empirical neural tangent kernel."""
    return FisherStatistics(np.zeros(size), np.ones(size), 0)


def block_moments(scores: Float[np.ndarray, "b p"], index: Sequence[Parameter] = ()) -> Moments:
    """Moments of one block, sums in float64; both sides' of the arrays in `index`."""
    mean = scores.mean(axis=0, dtype=np.float64)
    centred = scores - mean[None, :]
    sides = sides_sum(jnp.asarray(centred, scores.dtype), index)
    return Moments(len(scores), mean, np.einsum("bp,bp->p", centred, centred), sides, tuple(index))


def fisher_statistics(
    scores: Scores,
    samples: Examples,
    *,
    kronecker: bool = False,
    block: int = 256,
    checkpoint: Checkpoint | None = None,
    group: Group | None = None,
    progress: Progress = silent,
) -> FisherStatistics:
    """Z and I over `samples` in one pass, which the processes of a `group` share; with `kronecker` each parameter
    array's two factors as well.

    Cost: one gradient per sample, and 2 p (a + b) flops for factors of sides a and b. Memory: a few blocks of b p
    numbers, and the factors; nothing grows with the number of samples. Resumes from `checkpoint` on the same bits.
    Raises ScoreError for scores that are not finite.
    """
    checkpoint, group = Forgetful() if checkpoint is None else checkpoint, Alone() if group is None else group
    if kronecker and scores.outputs is not None:
        raise ValueError(f"outputs={scores.outputs!r} has no Kronecker factors: they are of one scalar's gradient")
    total, index = samples.shape[0], parameter_index(scores.params) if kronecker else ()
    moments = Moments(0, np.zeros(scores.size), np.zeros(scores.size), np.zeros(sides_size(index)), index)
    if total < 2:
        raise ValueError(f"{total} samples give no variance; give at least 2")
    if (kept := checkpoint.load("moments")) is not None:
        moments = Moments(int(kept["count"][0]), kept["mean"], kept["deviations"], kept["sides"], index)
    own = share(-(-total // block), group)
    for start in range(own.start * block + moments.count, min(own.stop * block, total), block):
        stop = min(total, start + block)
        rows = np.asarray(scores(samples[start:stop], start))
        moments = moments.merge(block_moments(rows, index))
        progress(stop - own.start * block, min(own.stop * block, total) - own.start * block, "scores")
        if checkpoint.due():
            checkpoint.save("moments", {"count": np.array([moments.count]), "mean": moments.mean,
                                        "deviations": moments.deviations, "sides": moments.sides})
    moments = _together(moments, group)
    return FisherStatistics(moments.mean, moments.deviations / moments.count, moments.count,
                            moments.sides / moments.count if kronecker else None)


def _together(own: Moments, group: Group) -> Moments:
    """The moments of all processes' examples: as `Moments.merge`, of as many parts as there are."""
    if group.size == 1:
        return own
    count = int(group.total(np.array([own.count]))[0])
    mean = group.total(own.mean * (own.count / count))
    shift = own.mean - mean
    sides = own.sides + own.count * sides_sum(shift[None, :], own.arrays)
    return Moments(count, mean, group.total(own.deviations + own.count * shift**2),
                   group.total(sides) if own.arrays else sides, own.arrays)
