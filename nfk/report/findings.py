"""The page's first sentences, made from the numbers of its tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nfk.report import numbers
from nfk.report.content import Family, Finding
from nfk.report.metrics import Probe
from nfk.report.tables import comparison, largest_rank

_CALLED = {"pca": "PCA of the pixels at the same size", "full": "the full Fisher vector",
           "activations": "the best activations", "pixels": "the raw pixels"}


def findings(families: Sequence[Family]) -> tuple[Finding, ...]:
    """One sentence a family, and one for the paper's claims.

    A difference is marked as within the error up to two standard errors of it, sqrt(e_1^2 + e_2^2); both
    accuracies are read on the same test images, so that this is the cautious side.
    """
    found = [Finding(subject=family.name, sentence=_sentence(family)) for family in families]
    claims = [claim for family in families for claim in family.metrics.claims]
    if claims:
        holding = sum(claim.holds for claim in claims)
        found.append(Finding(subject="The paper", sentence=(
            f"tested network by network, {holding} of {len(claims)} claims hold at this size.")))
    return tuple(found)


def _sentence(family: Family) -> str:
    if not family.metrics.features:
        return (f"the images have no classes for a probe to tell; {family.svd.rank} numbers hold "
                f"{numbers.percent(family.svd.explained_variance)}\N{NO-BREAK SPACE}% of the variance of the Fisher "
                "vectors.")
    embedding, *rivals = comparison(family.metrics)
    rank = largest_rank(family.metrics)
    own = embedding.feature.logistic if embedding.feature else None
    if own is None:
        return f"no logistic probe was read from the NFK embedding of {rank} numbers."
    accuracy = numbers.with_error(own.accuracy, own.standard_error) + "\N{NO-BREAK SPACE}%"
    sentence = (f"from the {rank} numbers of the NFK embedding a linear probe "
                f"reads {accuracy} of the test labels")
    compared = [_compared(own, rival.feature.logistic, _CALLED[rival.kind])
                for rival in rivals if rival.feature and rival.feature.logistic]
    if not compared:
        return f"{sentence}."
    *first, last = compared
    return f"{sentence}: {', '.join(first)}{' and ' if first else ''}{last}."


def _compared(own: Probe, rival: Probe, called: str) -> str:
    difference = own.accuracy - rival.accuracy
    shown = numbers.percent(abs(difference))
    if shown == "0.0":
        return f"level with {called}"
    side = "above" if difference > 0 else "below"
    within = abs(difference) <= 2 * math.hypot(own.standard_error, rival.standard_error)
    return f"{shown} points {side} {called}{' (within the error)' if within else ''}"
