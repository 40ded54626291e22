"""Everything that is read from each representation, as the metrics file holds it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError

from nfk.evaluation.features import Features, Labels, standardise
from nfk.evaluation.few_labels import few_labels, why_not
from nfk.evaluation.knn import neighbour_vote
from nfk.evaluation.linear_probe import Probe, logistic_probe, squared_hinge_probe
from nfk.params import EvaluateParams

log = logging.getLogger(__name__)

_WATCH_SECONDS = 1.0
_FEW = 1_000_000
"""Numbers to fit on in all, below which starting processes takes longer than they save"""


class EvaluationError(ValueError):
    """The representations could not be probed; the message is one line."""


Progress = Callable[[int, int, str], None]
"""(done, in all, of what)"""


def evaluate_all(representations: Sequence[Features], labels: Labels, params: EvaluateParams, seed: int, *,
                 workers: int = -1, progress: Progress | None = None) -> dict[str, dict[str, Any]]:
    """`evaluate_features` of each representation, by name, in the order given.

    They run side by side in `workers` processes (-1: one a core, or this one alone where there is little to do), the
    widest first. Numbers of labels that the training images have not, class by class, are left out; that, a strength at
    the end of the grid and a probe short of its tolerance are logged as warnings. Cost with
    the default parameters and 3,500 training images, on one core: 1.5 s at 16 numbers, 5 to 9 s at 128, 35 s at 3,500.
    """
    names = [features.name for features in representations]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(f"{sorted(repeated)[0]!r}: two representations of this name; give each its own")
    if workers == -1 and sum(features.train.size for features in representations) < _FEW:
        workers = 1
    widest_first = sorted(representations, key=lambda features: features.dimension, reverse=True)
    params = _with_counts_there_are(params, labels)
    results = Parallel(n_jobs=workers, return_as="generator_unordered", initializer=_end_with, initargs=(os.getpid(),))(
        delayed(_named)(features, labels, params, seed) for features in widest_first)
    found: dict[str, dict[str, Any]] = {}
    if progress:
        progress(0, len(names), "evaluated")
    for name, record in _until_a_worker_ends(results):
        found[name] = record
        _warn(name, record)
        if progress:
            progress(len(found), len(names), "evaluated")
    return {name: found[name] for name in names}


def evaluate_features(features: Features, labels: Labels, params: EvaluateParams, seed: int) -> dict[str, Any]:
    """Linear probes, nearest neighbours and few-label probes of one representation, ready for JSON.

    Features are standardised here. `seed` draws the labels of the few-label probes, nothing else.
    """
    features = standardise(features)
    drawn = few_labels(features, labels, params.labels, draws=params.draws, strengths=params.strengths,
                       seed=seed) if params.labels else {}
    return {
        "dimension": features.dimension,
        "logistic": _linear(logistic_probe(features, labels, params.strengths)),
        "squared_hinge": _linear(squared_hinge_probe(features, labels, params.strengths)),
        "knn": neighbour_vote(features, labels, params.neighbours)._asdict(),
        "few_labels": {str(count): {**result._asdict(), "draws": list(result.draws)}
                       for count, result in drawn.items()}}


def _with_counts_there_are(params: EvaluateParams, labels: Labels) -> EvaluateParams:
    reasons = {count: reason for count in params.labels if (reason := why_not(labels.train, count))}
    if reasons:
        log.warning("few labels: %s left out: %s", ", ".join(f"{count:,}" for count in reasons),
                    "; ".join(dict.fromkeys(reasons.values())))
    return params.model_copy(update={"labels": tuple(count for count in params.labels if count not in reasons)})


def _until_a_worker_ends(results: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        yield from results
    except TerminatedWorkerError:
        raise EvaluationError("a process that probes was killed from outside, as the system does where memory runs "
                              "out; run again, if it was memory with fewer evaluate.examples or a smaller "
                              "evaluate.full_vector_gib") from None


def _end_with(parent: int) -> None:
    """Let this process end with the one that started it: killed, that could not tell, and its workers would go on to
    the end of their tasks and wait for minutes, beside those of the run that resumes."""
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_SECONDS)
        os._exit(1)

    if os.getpid() != parent:
        threading.Thread(target=watch, name="nfk-parent", daemon=True).start()


def _named(features: Features, *arguments: Any) -> tuple[str, dict[str, Any]]:
    return features.name, evaluate_features(features, *arguments)


def _linear(probe: Probe) -> dict[str, Any]:
    record = probe._asdict()
    del record["predictions"]
    return record


def _warn(name: str, record: dict[str, Any]) -> None:
    for kind in ("logistic", "squared_hinge"):
        strength = record[kind]["strength"]
        if record[kind]["at_end"]:
            log.warning("%s, %s: the best strength, %g, is an end of evaluate.strengths; a better one may lie "
                        "beyond it", name, kind, strength)
        if not record[kind]["converged"]:
            log.warning("%s, %s: stopped short of its tolerance at strength %g", name, kind, strength)
