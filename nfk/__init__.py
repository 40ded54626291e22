"""Neural Fisher Kernel embeddings of any trained network.

    from nfk import NeuralFisherKernel
"""

from __future__ import annotations

from typing import Any

__all__ = ["NeuralFisherKernel"]


def __getattr__(name: str) -> Any:
    # on first use, so that `nfk --help` and the flows do not load jax
    if name == "NeuralFisherKernel":
        from nfk.estimator import NeuralFisherKernel

        return NeuralFisherKernel
    raise AttributeError(f"module 'nfk' has no attribute {name!r}")
