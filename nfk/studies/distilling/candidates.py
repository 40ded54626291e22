"""The grid: every method at every setting of its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn

from nfk.studies.distilling import attention, fitnet, selectivity, variational
from nfk.studies.distilling.fisher_kernel import FisherKernel
from nfk.studies.distilling.hinton import SoftTargets
from nfk.study_params import DistillationParams

TITLES = {"student": "student alone", "nfk-l2": "NFK, L2", "nfk-cosine": "NFK, cosine", "kd": "KD", "fitnet": "FitNet",
          "at": "AT", "nst": "NST", "vid": "VID-I"}
_BY_BETA: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "fitnet": (fitnet.Hint, fitnet.BETA), "at": (attention.AttentionTransfer, attention.BETA),
    "nst": (selectivity.SelectivityTransfer, selectivity.BETA),
    "vid": (variational.VariationalInformation, variational.BETA)}


class Candidate(NamedTuple):
    """loss = cross_entropy * CE + transfer * module(seen)"""

    method: str
    settings: dict[str, float]
    """what of the grid this is"""
    cross_entropy: float
    transfer: float
    module: nn.Module | None
    """None: the student alone"""


def candidates(params: DistillationParams) -> tuple[Candidate, ...]:
    """The student alone, then each method of `params.methods`: alpha CE + (1 - alpha) transfer for NFK and KD, with
    every temperature; CE + beta transfer for the others, beta their usual one times each of `params.strengths`."""
    found = [Candidate("student", {}, 1.0, 0.0, None)]
    for method in params.methods:
        if method in _BY_BETA:
            module, beta = _BY_BETA[method]
            found += [Candidate(method, {"beta": beta * strength}, 1.0, beta * strength, module())
                      for strength in params.strengths]
            continue
        for alpha in params.alphas:
            if method == "kd":
                found += [Candidate(method, {"alpha": alpha, "temperature": temperature}, alpha, 1 - alpha,
                                    SoftTargets(temperature)) for temperature in params.temperatures]
            else:
                distance = method.removeprefix("nfk-")
                found.append(Candidate(method, {"alpha": alpha}, alpha, 1 - alpha, FisherKernel(distance)))
    return tuple(found)
