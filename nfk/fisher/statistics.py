"""Mean score and diagonal Fisher information, streamed in float64.

Z = E[g(x)] and I = E[(g(x) - Z)^2], element-wise, over the model's samples x ~ p_theta. Blocks are merged by
Chan, Golub and LeVeque's update (1979): each block's own mean is taken away before squaring, so nothing cancels
however far the mean is from zero, and moments of different blocks, devices or runs merge in any order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from nfk.checkpoint import Checkpoint, Forgetful
from nfk.fisher.scores import Examples, Scores
from nfk.linalg.group import Alone, Group, share
from nfk.linalg.rows import Progress, silent


class Moments(NamedTuple):
    """Count, mean and sum of squared deviations of p numbers, float64."""

    count: int  # type: ignore[assignment]  # named as the field wants it: nobody counts a tuple's items here
    mean: Float[np.ndarray, " p"]
    deviations: Float[np.ndarray, " p"]
    """sum (g - mean)^2"""

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of examples together; nothing cancels, and the order does not matter but for
        rounding."""
        count = self.count + other.count
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        deviations = self.deviations + other.deviations + shift**2 * (self.count * other.count / count)
        return Moments(count, mean, deviations)


class FisherStatistics(NamedTuple):
    """What centres and whitens the scores."""

    mean_score: Float[np.ndarray, " p"]
    """Z, float64"""
    diagonal: Float[np.ndarray, " p"]
    """I, float64"""
    count: int  # type: ignore[assignment]
    """examples in the expectation"""

    @property
    def dead(self) -> int:
        """Parameters whose score never moved (I = 0 exactly): their weight is 0."""
        return int(np.sum(self.diagonal == 0))

    def weight(self, damping: float) -> Float[np.ndarray, " p"]:
        """(I + damping * mean(I))^(-1/2), and 0 where I = 0; float64."""
        if not damping >= 0:
            raise ValueError(f"damping={damping} is below 0; it is relative to the mean of the diagonal")
        damped = self.diagonal + damping * np.mean(self.diagonal)
        alive = self.diagonal > 0
        return np.where(alive, 1 / np.sqrt(np.where(alive, damped, 1.0)), 0.0)


def identity_statistics(size: int) -> FisherStatistics:
    """Z = 0 and I = 1: with them the kernel is the empirical neural tangent kernel."""
    return FisherStatistics(np.zeros(size), np.ones(size), 0)


def block_moments(scores: Float[np.ndarray, "b p"]) -> Moments:
    """Moments of one block, sums in float64."""
    mean = scores.mean(axis=0, dtype=np.float64)
    centred = scores - mean[None, :]
    return Moments(len(scores), mean, np.einsum("bp,bp->p", centred, centred))


def fisher_statistics(
    scores: Scores,
    samples: Examples,
    *,
    block: int = 256,
    checkpoint: Checkpoint | None = None,
    group: Group | None = None,
    progress: Progress = silent,
) -> FisherStatistics:
    """Z and I over `samples` in one pass, which the processes of a `group` share.

    Cost: one gradient per sample. Memory: a few blocks of b p numbers; nothing grows with the number of
    samples. Resumes from `checkpoint` on the same bits. Raises ScoreError for scores that are not finite.
    """
    checkpoint, group = Forgetful() if checkpoint is None else checkpoint, Alone() if group is None else group
    total = samples.shape[0]
    moments = Moments(0, np.zeros(scores.size), np.zeros(scores.size))
    if total < 2:
        raise ValueError(f"{total} samples give no variance; give at least 2")
    if (kept := checkpoint.load("moments")) is not None:
        moments = Moments(int(kept["count"][0]), kept["mean"], kept["deviations"])
    own = share(-(-total // block), group)
    for start in range(own.start * block + moments.count, min(own.stop * block, total), block):
        stop = min(total, start + block)
        rows = np.asarray(scores(samples[start:stop], start))
        moments = moments.merge(block_moments(rows))
        progress(stop - own.start * block, min(own.stop * block, total) - own.start * block, "scores")
        if checkpoint.due():
            checkpoint.save("moments", {"count": np.array([moments.count]), "mean": moments.mean,
                                        "deviations": moments.deviations})
    moments = _together(moments, group)
    return FisherStatistics(moments.mean, moments.deviations / moments.count, moments.count)


def _together(own: Moments, group: Group) -> Moments:
    """The moments of all processes' examples: as `Moments.merge`, of as many parts as there are."""
    if group.size == 1:
        return own
    count = int(group.total(np.array([own.count]))[0])
    mean = group.total(own.mean * (own.count / count))
    return Moments(count, mean, group.total(own.deviations + own.count * (own.mean - mean) ** 2))
