"""How few components hold a kernel's variance."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from nfk.linalg.blas import threads_for_eigenproblem


def explained_variance(gram: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " n"]:
    """r_k = sum_{i <= k} lambda_i / trace, k = 1..n, of the Gram matrix V V^T; r_n = 1.

    With lambda_i = s_i^2 this is the paper's ratio over the whole matrix, and the denominator is
    |V|_F^2. Cost: the eigenvalues of an n x n matrix in float64. Eigenvalues that round-off made negative
    count as zero, in the sum and in the trace.

    Raises:
        ValueError: the matrix is zero.
    """
    with threads_for_eigenproblem(len(gram)):
        eigenvalues = np.linalg.eigvalsh(gram.astype(np.float64))[::-1].clip(min=0)
    if not eigenvalues[0] > 0:
        raise ValueError(f"the Gram matrix of {len(gram)} examples is zero: every Fisher vector vanishes")
    return np.cumsum(eigenvalues) / eigenvalues.sum()


def component_counts(available: int) -> list[int]:
    """Numbers of components to show on a logarithmic axis: 1, 2, 5, 10, ... and 12 steps a decade between."""
    if available < 1:
        raise ValueError(f"available={available}: a spectrum needs at least 1 component")
    decades = range(len(str(available)))
    marks = [mark * 10**decade for decade in decades for mark in (1, 2, 5)]
    between = [round(10 ** (step / 12)) for step in range(12 * len(decades))]
    return sorted({count for count in (*marks, *between, available) if count <= available})
