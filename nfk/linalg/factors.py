"""The truncated SVD of V as a named value, with what is known of its error."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from nfk.linalg.blas import threads_for
from nfk.linalg.group import Alone, Group
from nfk.linalg.spread import parts
from nfk.linalg.tall import FiledRows, Tall, pieces


class Factors(NamedTuple):
    """V ~ U diag(s) W^T, modes in descending order, each column of W with its largest entry positive."""

    singular_values: Float[np.ndarray, " k"]
    """s, float64"""
    left: Float[np.ndarray, "n k"]
    """U = V W diag(1 / s); of a group, the rows of this process"""
    right: Float[Array, "p k"] | Tall
    """W, orthonormal columns; read by rows where it is spread over devices, or in a file since no memory holds it"""
    residuals: Float[np.ndarray, " k"]
    """||V^T u_i - s_i w_i|| / s_1 (or ||V w_i - s_i u_i|| / s_1, whichever of the two a method leaves). Two
    bounds follow (Weyl; Kato and Temple): some singular value of V lies within residual * s_1 of s_i, and for a mode
    separated from the others by a relative gap the error of s_i is of the order of residual^2 * s_1 / gap."""
    squared_norm: float
    """||V||_F^2 of the whole matrix, kept part or not"""
    passes: int
    """passes over the data"""
    errors: Float[np.ndarray, " k"]
    """estimated relative error of each s_i^2: what the iteration has still to gain and, once `with_rounding` has
    been told exact rows, what rounding has done"""

    @property
    def explained_variance(self) -> Float[np.ndarray, " k"]:
        """r_k = sum_{i <= k} s_i^2 / ||V||_F^2"""
        return np.cumsum(self.singular_values**2) / self.squared_norm

    @property
    def orthogonality(self) -> float:
        """The largest entry of |W^T W - I|."""
        if isinstance(self.right, Array):
            gram = np.asarray(jnp.matmul(self.right.T, self.right, precision="highest"), np.float64)
        else:
            gram = np.zeros((self.right.shape[1], self.right.shape[1]))
            for _, part in pieces(self.right):
                gram += part.T @ part
        return float(np.max(np.abs(gram - np.eye(len(gram)))))


class RankError(ValueError):
    """The matrix cannot give what was asked for."""


def numerical_rank(squares: Float[np.ndarray, " r"], eps: float, size: int) -> int:
    """How many eigenvalues s_i^2 (descending) of V^T V stand above round-off.

    A singular value counts while s_i > s_1 * eps * sqrt(size), size = max(n, p), eps of V's precision.
    """
    if len(squares) == 0 or squares[0] <= 0:
        return 0
    floor = squares[0] * eps**2 * size
    return int(np.sum(squares > floor))


def with_positive_peaks(
    left: Float[np.ndarray, "n k"], right: Float[Array, "p k"]
) -> tuple[Float[np.ndarray, "n k"], Float[Array, "p k"]]:
    """Signs such that the largest-magnitude entry of each column of W, which may be spread, is positive."""
    peaks = _peaks(jnp.asarray(np.array([_peaks(part) for part in parts(right)])))
    signs = np.where(np.asarray(peaks) < 0, -1, 1).astype(right.dtype)
    return left * signs[None, :], right * jnp.asarray(signs)[None, :]


def _peaks(right: Float[Array, "p k"]) -> Float[Array, " k"]:
    """The first entry of largest magnitude in each column."""
    return jnp.take_along_axis(right, jnp.argmax(jnp.abs(right), axis=0)[None, :], axis=0)[0]


def with_rounding(
    factors: Factors, exact: Float[np.ndarray, "m p"] | FiledRows, which: Int[np.ndarray, " m"],
    group: Group | None = None,
) -> Factors:
    """The factors with the rounding error of each s_i^2 added to `errors`, judged from the rows `which` (of
    `factors.left`, in higher precision) of every process.

    To first order a perturbation dV moves ln s_i^2 by sum over rows x of c_x = 2 u_xi (dV_x w_i) / s_i, and
    dV_x w_i is what V_x w_i, from the exact row, differs from the s_i u_xi that was found. Were the n terms
    independent with mean m and variance v, the sum's mean square would be (n m)^2 + n v: its root is taken, v as the
    sample has it, m^2 as large as the sample allows, its own variance added. What one row in thousands does (a unit
    on its kink, which falls to either side by round-off) is not seen unless the sample has such a row. Cost: 2 m p k
    flops in float64.
    """
    group = Alone() if group is None else group
    n, count = group.total(np.array([len(factors.left), len(which)]))
    p, k = factors.right.shape
    image, lengths = np.zeros((len(which), k)), np.zeros(k)
    with threads_for(2 * len(which) * p * k):
        for start, found_part in pieces(factors.right):
            part = found_part.astype(np.float64)
            image += exact[:, start : start + len(part)] @ part
            lengths += np.einsum("pk,pk->k", part, part)
    found = factors.left[which].astype(np.float64)
    moved = 2 * found * (image / np.sqrt(lengths)[None, :] / factors.singular_values[None, :] - found)
    mean = group.total(moved.sum(axis=0)) / count
    variance = group.total(((moved - mean[None, :]) ** 2).sum(axis=0)) / max(count - 1, 1)
    drift = mean**2 + variance / count
    rounding = np.sqrt(n**2 * drift + n * variance)
    return factors._replace(errors=factors.errors + rounding)
