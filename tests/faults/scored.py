"""Networks whose scores are known by hand, and what becomes of them, in NumPy's float64: the truth of tests.

s = (a W + b) c of an example x = (a, c), so that dW s = a c^T and db s = c: any sizes, duplicates, infinities of scores
are sizes, duplicates and infinities of examples, and all of them share one compiled network.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from nfk.fisher.scores import Scores
from nfk.fisher.statistics import FisherStatistics, fisher_statistics, identity_statistics
from nfk.fisher.vectors import FisherVectors

INPUTS, OUTPUTS = 4, 3
BLOCK = 16
"""As many rows as rounding is judged by: one size is compiled"""
P = OUTPUTS + INPUTS * OUTPUTS


class Kind(NamedTuple):
    """How scores become rows of V."""

    whitening: str = "none"
    """"none": a tangent kernel"""
    damping: float = 0.0
    unit_rows: bool = False
    outputs: Any = None


KINDS = {
    "diagonal": Kind("diagonal", 0.1),
    "diagonal-unit": Kind("diagonal", 0.1, True),
    "diagonal-undamped": Kind("diagonal"),
    "kronecker": Kind("kronecker", 0.1),
    "kronecker-unit": Kind("kronecker", 0.1, True),
    "kronecker-undamped": Kind("kronecker"),
    "tangent": Kind(),
    "tangent-unit": Kind(unit_rows=True),
    "tangent-all": Kind(outputs="all"),
    "tangent-trace": Kind(outputs="trace"),
}
FISHER = [name for name, kind in KINDS.items() if kind.whitening != "none"]
TANGENT = [name for name in KINDS if name not in FISHER]


def potential(params, x, key):
    return (x[:INPUTS] @ params["w"] + params["b"]) @ x[INPUTS:]


def two_potentials(params, x, key):
    """The second one has the outputs' factors the other way round."""
    hidden = x[:INPUTS] @ params["w"] + params["b"]
    return jnp.stack([hidden @ x[INPUTS:], hidden @ x[INPUTS:][::-1]])


@functools.cache
def scores(outputs: Any) -> Scores:
    params = {"b": jnp.ones(OUTPUTS), "w": jnp.ones((INPUTS, OUTPUTS))}
    return Scores(potential if outputs is None else two_potentials, params, outputs=outputs,
                  count=1 if outputs is None else 2)


def vectors(examples: np.ndarray, kind: Kind, samples: np.ndarray | None = None) -> FisherVectors:
    """The product's V."""
    made = scores(kind.outputs)
    known: FisherStatistics = identity_statistics(made.size) if kind.whitening == "none" else fisher_statistics(
        made, examples if samples is None else samples, kronecker=kind.whitening == "kronecker", block=BLOCK)
    return FisherVectors(made, examples, known, damping=kind.damping, unit_rows=kind.unit_rows, block_rows=BLOCK)


def truth(examples: np.ndarray, kind: Kind, samples: np.ndarray | None = None) -> np.ndarray:
    """V by its definition, float64."""
    g = _scores64(examples, kind)
    if kind.whitening != "none":
        drawn = g if samples is None else _scores64(samples, kind)
        mean = drawn.mean(axis=0)
        whiten = _by_numbers if kind.whitening == "diagonal" else _by_arrays
        g = whiten(g - mean, drawn - mean, kind.damping)
    if kind.unit_rows:
        lengths = np.linalg.norm(g, axis=1, keepdims=True)
        g = g / np.where(lengths > 0, lengths, 1)
    return g


def _scores64(examples: np.ndarray, kind: Kind) -> np.ndarray:
    a, c = np.split(examples.astype(np.float64), [INPUTS], axis=1)
    each = [np.concatenate([c, np.einsum("na,nb->nab", a, c).reshape(len(a), -1)], axis=1)
            for c in ([c] if kind.outputs is None else [c, c[:, ::-1]])]
    if kind.outputs == "all":
        return np.stack(each, axis=1).reshape(-1, P)
    # "trace": JAX's Jacobian has each array's outputs one after the other; the order of columns changes no kernel
    return np.concatenate(each, axis=1)


def _by_numbers(rows: np.ndarray, drawn: np.ndarray, damping: float) -> np.ndarray:
    information = (drawn**2).mean(axis=0)
    alive = information > 0
    damped = np.where(alive, information + damping * information.mean(), 1)
    return rows * alive / np.sqrt(damped)


def _by_arrays(rows: np.ndarray, drawn: np.ndarray, damping: float) -> np.ndarray:
    parts = []
    for start, stop, height in ((0, OUTPUTS, 1), (OUTPUTS, P, INPUTS)):
        one, every = (each[:, start:stop].reshape(len(each), height, OUTPUTS) for each in (rows, drawn))
        moved = (every**2).sum(axis=0) > 0
        one = one * np.outer(moved.any(axis=1), moved.any(axis=0))
        left, right = (np.einsum(of, every, every) / len(every) for of in ("nij,nkj->ik", "nij,nik->jk"))
        turned = _inverse_root(left, damping) @ one @ _inverse_root(right, damping)
        parts.append(np.sqrt(np.trace(left)) * turned.reshape(len(rows), -1))
    return np.concatenate(parts, axis=1)


def _inverse_root(side: np.ndarray, damping: float) -> np.ndarray:
    values, basis = np.linalg.eigh(side)
    damped = values + damping * values.mean()
    kept = damped > 4 * np.finfo(np.float32).eps * max(values[-1], 0)  # as the product's docstring has it
    return basis * np.where(kept, 1 / np.sqrt(np.where(kept, damped, 1)), 0) @ basis.T
