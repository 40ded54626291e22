"""The paper's comparisons, judged on what was measured here.

Paper: Zhang, Zhai, Littwin, Susskind, "Learning Representation from Neural Fisher Kernel with Low-rank
Approximation", ICLR 2022: table 1 (recovery, activations, VAE), table 2 (few labels), figures 2 and 5
(spectra).

"Above" holds when the margin exceeds two standard errors, "recovers" when the gap does not. The standard
error of a difference of accuracies is sqrt(e_1^2 + e_2^2); read on the same test images both move together,
so that it is the cautious side. Between few-label results it comes from the paired draws of labels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nfk.evaluation.few_labels import FewLabels, paired_difference

ERRORS = 2.0
"""Standard errors that a margin must exceed to count."""
PAPER_COMPONENTS = 100
PAPER_EXPLAINED = 0.995


@dataclass(frozen=True)
class Claim:
    """One statement of the paper and whether it holds here; margin = value - reference, as fractions."""

    name: str
    statement: str
    holds: bool
    value: float
    reference: float
    margin: float
    standard_error: float | None
    """Of the margin; None for a spectrum, which is computed, not sampled."""
    note: str
    reason: str = ""
    """Why it does not hold, as far as the measurements tell; empty where it holds."""


def judge(metrics: Mapping[str, Any], *, penultimate: str | None = None,
          latent_mean: str | None = None) -> list[Claim]:
    """The claims that the content of a metrics file can decide; others are left out.

    `penultimate` (a classifier) and `latent_mean` (a VAE) name the features of that family's own baseline.
    """
    features, spectrum = metrics["features"], metrics.get("spectrum") or {}
    ranks = sorted(int(match[1]) for name in features if (match := re.fullmatch(r"nfk-(\d+)", name)))
    if not ranks and features:
        raise ValueError("no features named nfk-K; evaluate the embedding before judging claims about it")
    claims = _of_probes(features, ranks, penultimate, latent_mean) if ranks else []
    if spectrum.get("trained") and spectrum.get("untrained"):
        claims.append(_trained_above_untrained(spectrum))
    return claims + [_explains(spectrum, curve) for curve in ("trained", "trained_uncentred")
                     if spectrum.get(curve) and PAPER_COMPONENTS in spectrum["components"]]


def _of_probes(features: Mapping[str, Any], ranks: list[int], penultimate: str | None, latent_mean: str | None
               ) -> list[Claim]:
    k = ranks[-1]
    embedding = f"nfk-{k}"
    claims = []
    for name, statement, reference in (
        ("above-pca", f"The NFK embedding is above PCA of the pixels at the same k = {k}.", f"pca-{k}"),
        ("above-activations", "The NFK embedding is above the flat activations of all layers.",
         "activations-all"),
        ("above-activations-pca", f"The NFK embedding is above all activations reduced by PCA to k = {k}.",
         f"activations-all-pca-{k}"),
        ("above-latent-mean", "The NFK embedding is above the VAE's latent mean.", latent_mean),
    ):
        if reference is not None and reference in features:
            claims.append(_above(name, statement, features, embedding, reference))
    if "full-fisher-vector" in features:
        claims.append(_recovers(features, ranks))
    if penultimate is not None and penultimate in features and "100" in features[embedding]["few_labels"]:
        claims.append(_few_labels_above(features, embedding, penultimate))
    return claims


def _above(name: str, statement: str, features: Mapping[str, Any], embedding: str, reference: str) -> Claim:
    ours, theirs = features[embedding], features[reference]
    value, other, error = _logistic_pair(ours, theirs)
    holds = value - other > ERRORS * error
    reason = ""
    if not holds and theirs["dimension"] > ours["dimension"]:
        reason = f"{reference} has {theirs['dimension']:,} numbers an image, {embedding} has {ours['dimension']}"
    return Claim(name, statement, holds, value, other, value - other, error,
                 _side(value - other, error, reference), reason)


def _recovers(features: Mapping[str, Any], ranks: list[int]) -> Claim:
    k = ranks[-1]
    value, full, error = _logistic_pair(features[f"nfk-{k}"], features["full-fisher-vector"])
    gap = full - value
    holds = gap <= ERRORS * error
    reason = ""
    if not holds and len(ranks) > 1:
        gain = value - features[f"nfk-{ranks[-2]}"]["logistic"]["accuracy"]
        reason = f"from k = {ranks[-2]} to {k} the probe still gains {_points(gain)}" + (
            ": the components left out tell classes apart" if gain > 0 else "")
    note = f"a gap below {_points(ERRORS * error)} cannot be seen with this many test images"
    return Claim("recovers-full-fisher-vector", f"{k} numbers recover the accuracy of the full Fisher vector.",
                 holds, value, full, value - full, error, note, reason)


def _few_labels_above(features: Mapping[str, Any], embedding: str, penultimate: str) -> Claim:
    ours, theirs = (FewLabels(result["mean"], result["standard_deviation"], tuple(result["draws"]))
                    for result in (features[name]["few_labels"]["100"] for name in (embedding, penultimate)))
    difference = paired_difference(ours, theirs)
    return Claim("few-labels-above-penultimate",
                 "With 100 labels the classifier's NFK embedding is above its penultimate layer.",
                 difference.mean > ERRORS * difference.standard_error, ours.mean, theirs.mean, difference.mean,
                 difference.standard_error,
                 f"{len(ours.draws)} paired draws of 100 labels; "
                 + _side(difference.mean, difference.standard_error, penultimate))


def _trained_above_untrained(spectrum: Mapping[str, Any]) -> Claim:
    at = max((count for count in spectrum["components"] if count <= PAPER_COMPONENTS),
             default=min(spectrum["components"]))
    index = spectrum["components"].index(at)
    trained, untrained = spectrum["trained"][index], spectrum["untrained"][index]
    return Claim("trained-above-untrained", "Training concentrates the spectrum on fewer components.",
                 trained > untrained, trained, untrained, trained - untrained, None,
                 f"explained variance of {at} components, centred" + _spread(spectrum, index))


def _spread(spectrum: Mapping[str, Any], index: int) -> str:
    draws = [draw[index] for draw in spectrum.get("untrained_draws", ())]
    if len(draws) < 2:
        return ""
    below = sum(draw < spectrum["trained"][index] for draw in draws)
    return (f"; untrained: the mean of {len(draws)} initialisations, {min(draws):.1%} to {max(draws):.1%}, "
            f"{below} of them below")


def _explains(spectrum: Mapping[str, Any], curve: str) -> Claim:
    uncentred = curve.endswith("uncentred")
    value = spectrum[curve][spectrum["components"].index(PAPER_COMPONENTS)]
    holds = value >= PAPER_EXPLAINED
    note = "mean score not subtracted" if uncentred else "mean score subtracted, as the paper's formula says"
    reason = ""
    first, first_uncentred = (_first_component(spectrum, name) for name in ("trained", "trained_uncentred"))
    if first is not None and first_uncentred is not None:
        if uncentred:
            note += f"; the first component alone holds {_percent(first_uncentred)}"
        elif not holds and first_uncentred > 0.5:
            reason = (f"subtracting the mean score takes away the one component that holds "
                      f"{_percent(first_uncentred)} otherwise; the first one left holds {_percent(first)}")
    return Claim(f"explains-99.5-percent-{'uncentred' if uncentred else 'centred'}",
                 f"The first {PAPER_COMPONENTS} components explain {_percent(PAPER_EXPLAINED)} of the variance.",
                 holds, value, PAPER_EXPLAINED, value - PAPER_EXPLAINED, None, note, reason)


def _first_component(spectrum: Mapping[str, Any], curve: str) -> float | None:
    if 1 not in spectrum["components"] or not spectrum.get(curve):
        return None
    return spectrum[curve][spectrum["components"].index(1)]


def _logistic_pair(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[float, float, float]:
    a, b = ours["logistic"], theirs["logistic"]
    return a["accuracy"], b["accuracy"], math.hypot(a["standard_error"], b["standard_error"])


def _side(margin: float, error: float, reference: str) -> str:
    side = "level with" if margin == 0 else "above" if margin > 0 else "below"
    distance = "" if margin == 0 else f"{_points(abs(margin))} "
    decided = "" if abs(margin) > ERRORS * error else ", within two standard errors: not decided"
    return f"{distance}{side} {reference}{decided}"


def _points(difference: float) -> str:
    return f"{100 * difference:.1f} points"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"
