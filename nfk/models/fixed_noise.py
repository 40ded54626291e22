"""Noise that is part of a potential: one draw, shared by all examples and equal in every process."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float32
from scipy.special import ndtri


def fixed_noise(shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
    """Standard normal numbers, the same ones wherever they are asked for: of PCG64's raw bits, whose stream NumPy
    keeps, where JAX's follows settings of the whole process. In float32, so that theta in float64 meets the same."""
    bits = np.random.PCG64(0).random_raw(math.prod(shape))
    return ndtri(((bits >> np.uint64(11)) + 0.5) * 2.0**-53).reshape(shape).astype(np.float32)
