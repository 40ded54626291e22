"""Truncated SVD of V by randomised subspace iteration: the paper's Algorithm 4, kept as the reference.

Zhang et al., ICLR 2022, appendix C; the method is that of Halko, Martinsson and Tropp (SIAM Review 53, 2011) with
power iterations. It sees V only through the products V M and V^T M.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from nfk.linalg.factors import Factors, RankError, numerical_rank, with_positive_peaks
from nfk.linalg.orthonormal import product64
from nfk.linalg.rows import Progress, check_range, silent


@runtime_checkable
class Products(Protocol):
    """V in R^(n x p) by its products with blocks of vectors."""

    shape: tuple[int, int]

    def matmat(self, vectors: Float[Array, "p r"]) -> Float[Array, "n r"]:
        """V M, a pass over the data."""

    def rmatmat(self, vectors: Float[Array, "n r"]) -> Float[Array, "p r"]:
        """V^T M, a pass over the data."""

    def squared_norm(self) -> float:
        """||V||_F^2, of the whole matrix."""


class DenseProducts:
    """Products with a matrix that is in memory, in its precision."""

    def __init__(self, matrix: Float[np.ndarray, "n p"] | Float[Array, "n p"]) -> None:
        self.shape, self._matrix = (matrix.shape[0], matrix.shape[1]), jnp.asarray(matrix)

    def matmat(self, vectors: Float[Array, "p r"]) -> Float[Array, "n r"]:
        """V x, for each column x of `vectors`, (p, r): 2 n p r flops."""
        return jnp.matmul(self._matrix, vectors, precision="highest")

    def rmatmat(self, vectors: Float[Array, "n r"]) -> Float[Array, "p r"]:
        """V^T y, for each column y of `vectors`, (n, r): 2 n p r flops."""
        return jnp.matmul(self._matrix.T, vectors, precision="highest")

    def squared_norm(self) -> float:
        """||V||_F^2, summed in float64."""
        matrix = np.asarray(self._matrix)
        return float(np.einsum("np,np->", matrix, matrix, dtype=np.float64))


def subspace_iteration(
    products: Products, *, rank: int, key: Key[Array, ""], oversampling: int = 10, power_iterations: int = 10,
    progress: Progress = silent,
) -> tuple[Float[Array, "n l"], Float[np.ndarray, " l"], Float[Array, "p l"]]:
    """(U, s, W), l = rank + oversampling modes of which the leading `rank` are asked for, step by step as printed:
    Omega is drawn in R^(p x l) and V Omega made; `power_iterations` times V^T, V and a QR follow; B = V^T Omega and
    its SVD end it.

    Cost: power_iterations + 1 products with V and as many with V^T, of l columns each. Memory: a few of (n + p) l.
    Raises RankError if rank exceeds min(n, p).
    """
    n, p = products.shape
    if not 1 <= rank <= min(n, p):
        raise RankError(f"rank={rank} is not in 1..min(n, p)={min(n, p)}; lower it (svd.rank)")
    width, steps = min(rank + oversampling, n, p), power_iterations + 1
    omega = products.matmat(jax.random.normal(key, (p, width)))
    omega = omega / _power_of_two(omega)  # V V^T V Omega, made before the first QR, grows as the third power of V
    progress(1, steps, "power iterations")
    for step in range(power_iterations):
        omega = products.matmat(products.rmatmat(omega))
        omega, _ = jnp.linalg.qr(omega)
        progress(step + 2, steps, "power iterations")
    image = products.rmatmat(omega)
    right, values, left = jnp.linalg.svd(image, full_matrices=False)
    left = jnp.matmul(omega, left.T, precision="highest")
    return left, np.asarray(values, np.float64), right


def _power_of_two(matrix: Float[Array, "n l"]) -> float:
    """At most its largest number: by it all are divided without rounding."""
    return 2.0 ** (math.frexp(float(jnp.abs(matrix).max()))[1] - 1)


def subspace_svd(
    products: Products, *, rank: int, key: Key[Array, ""], oversampling: int = 10, power_iterations: int = 10,
    progress: Progress = silent,
) -> Factors:
    """`subspace_iteration` with what is known of its error, for one product V W more and ||V||_F^2.

    Here V^T u_i = s_i w_i by construction, so the residual is ||V w_i - s_i u_i|| / s_1. The eigenvalue's relative
    error is ||V w_i - s_i u_i||^2 / (s_i^2 - s_l^2), s_l the smallest value that iteration carried (Kato and Temple).
    """
    squared_norm = products.squared_norm()  # first: a row that is not finite is named before it is in all else
    left, values, right = subspace_iteration(
        products, rank=rank, key=key, oversampling=oversampling, power_iterations=power_iterations,
        progress=progress)
    check_range(np.isfinite(squared_norm) and np.isfinite(values).all(), 0, products.shape[0], right.dtype)
    eps = float(jnp.finfo(right.dtype).eps)
    count = numerical_rank(values**2, eps, max(products.shape))
    if count == 0:
        raise RankError("every row of the matrix is zero: no score differs from the mean score")
    left, values, right = left[:, :count], values[:count], right[:, :count]
    rest = products.matmat(right) - left * jnp.asarray(values, left.dtype)[None, :]
    lengths = np.sqrt(np.diag(product64(rest, rest)))
    errors = lengths**2 / np.maximum(values**2 - values[-1] ** 2, eps * values**2)
    flipped = with_positive_peaks(np.asarray(left[:, :rank]), right[:, :rank])
    return Factors(values[:rank], *flipped, lengths[:rank] / values[0], squared_norm, power_iterations + 2,
                   np.minimum(errors[:rank], 1.0))
