"""Matrices whose singular values are known, because they were put in."""

from __future__ import annotations

import numpy as np

SPECTRA = {
    "fast decay": lambda count: np.exp(-np.arange(count) / 8),
    "slow decay": lambda count: (1 + np.arange(count)) ** -0.8,
    "ties": lambda count: np.repeat(np.arange(-(-count // 4), 0, -1.0), 4)[:count],
    "one huge mode": lambda count: np.concatenate([[30.0], (1 + np.arange(count - 1)) ** -0.5]),
    "rank deficient": lambda count: np.where(np.arange(count) < 10, 1 / (1 + np.arange(count)), 0.0),
}


def matrix(spectrum: np.ndarray, n: int, p: int, seed: int, dtype: type = np.float32) -> np.ndarray:
    """n x p with the singular values `spectrum` (to dtype's rounding) and random singular vectors."""
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.standard_normal((n, len(spectrum))))[0]
    right = np.linalg.qr(rng.standard_normal((p, len(spectrum))))[0]
    return ((left * spectrum) @ right.T).astype(dtype)


def true_residuals(rows: np.ndarray, factors) -> np.ndarray:
    """||V^T u_i - s_i w_i|| / s_1 in float64, from the factors as stored."""
    exact = np.asarray(rows, np.float64)
    left, right = np.asarray(factors.left, np.float64), np.asarray(factors.right, np.float64)
    rest = exact.T @ left - factors.singular_values[None, :] * right
    gram = exact @ exact.T if len(exact) < exact.shape[1] else exact.T @ exact  # quicker than norm(exact, 2)
    return np.linalg.norm(rest, axis=0) / np.sqrt(np.linalg.eigvalsh(gram)[-1])
