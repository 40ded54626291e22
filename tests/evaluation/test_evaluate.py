"""The record of a representation: its schema, and that it does not depend on who computed it, or where."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from nfk.evaluation import evaluate
from nfk.evaluation.evaluate import evaluate_all, evaluate_features
from nfk.evaluation.features import Features, truncate
from nfk.params import EvaluateParams
from tests.evaluation.problems import clusters, mapped, rotation

PARAMS = EvaluateParams(labels=(9, 30), draws=3, strengths=(1e-3, 1e-2, 1e-1, 1.0), neighbours=(1, 5))


def test_the_record_has_the_schema_of_the_metrics_file():
    features, labels = clusters(0)
    record = json.loads(json.dumps(evaluate_features(features, labels, PARAMS, seed=0)))
    linear = {"accuracy", "standard_error", "strength", "validation_accuracy", "at_end", "converged"}
    assert record.keys() == {"dimension", "logistic", "squared_hinge", "knn", "few_labels"}
    assert record["dimension"] == 12
    assert record["logistic"].keys() == record["squared_hinge"].keys() == linear
    assert record["knn"].keys() == {"accuracy", "standard_error", "neighbours", "metric", "validation_accuracy"}
    assert record["few_labels"].keys() == {"9", "30"}
    assert record["few_labels"]["9"].keys() == {"mean", "standard_deviation", "draws"}
    assert len(record["few_labels"]["9"]["draws"]) == 3


@pytest.mark.parametrize("seed", range(2))
def test_raw_rotated_and_shifted_features_give_one_record(seed):
    features, labels = clusters(seed, distance=1.5)
    copy = mapped(features, 1000 * rotation(seed, 12))
    moved = Features("moved", copy.train + 50, copy.validation + 50, copy.test + 50)
    ours, theirs = (evaluate_features(part, labels, PARAMS, seed=0) for part in (features, moved))
    assert ours == theirs


def test_without_few_label_counts_there_are_no_few_label_results():
    features, labels = clusters(0)
    assert evaluate_features(features, labels, PARAMS.model_copy(update={"labels": ()}), seed=0)["few_labels"] == {}


def test_numbers_of_labels_that_there_are_not_are_left_out_and_said(caplog):
    features, labels = clusters(0)
    params = PARAMS.model_copy(update={"labels": (2, 9, 5000)})
    found = evaluate_all([features], labels, params, 0, workers=1)[features.name]
    assert found["few_labels"].keys() == {"9"}
    said, = (record.message for record in caplog.records if record.message.startswith("few labels"))
    assert said.startswith("few labels: 2, 5,000 left out: 2 is less than the 3 classes; 5,000 takes 1,667 images of ")
    params = PARAMS.model_copy(update={"labels": (5000,)})
    assert evaluate_all([features], labels, params, 0, workers=1)[features.name]["few_labels"] == {}


def test_processes_change_nothing_and_order_is_kept():
    features, labels = clusters(1)
    representations = [truncate(features, k, name=f"nfk-{k}") for k in (4, 12, 8)]
    steps = []
    alone = evaluate_all(representations, labels, PARAMS, 0, workers=1, progress=lambda *step: steps.append(step))
    assert list(alone) == ["nfk-4", "nfk-12", "nfk-8"]
    assert alone == {part.name: evaluate_features(part, labels, PARAMS, 0) for part in representations}
    assert steps == [(done, 3, "evaluated") for done in range(4)]
    assert evaluate_all(representations, labels, PARAMS, 0, workers=2) == alone


@pytest.mark.parametrize("few, expected", [(10**9, 1), (0, -1)])
def test_processes_start_where_there_is_much_to_do(monkeypatch, few, expected):
    asked = []

    class Watched(evaluate.Parallel):
        def __init__(self, n_jobs, **options):
            asked.append(n_jobs)
            super().__init__(n_jobs=1, **options)

    monkeypatch.setattr(evaluate, "_FEW", few)
    monkeypatch.setattr(evaluate, "Parallel", Watched)
    features, labels = clusters(1)
    evaluate_all([features], labels, PARAMS, 0)
    assert asked == [expected]


KILLED = """
from dataclasses import replace
from nfk.evaluation.evaluate import evaluate_all
from nfk.params import EvaluateParams
from tests.evaluation.problems import clusters

features, labels = clusters(0, dimension=2000, train=6000)
params = EvaluateParams(labels=(), strengths=(1e-3, 1e6), neighbours=(1,))
evaluate_all([replace(features, name=name) for name in ("a", "b")], labels, params, 0, workers=2)
"""


@pytest.fixture
def probing():
    """A process that probes for minutes, and one of its workers at least, at work."""
    process = subprocess.Popen([sys.executable, "-c", KILLED], cwd=Path(__file__).parents[2], stderr=subprocess.PIPE,
                               text=True)
    try:
        yield process, wait_for(lambda: [child for child in psutil.Process(process.pid).children(recursive=True)
                                         if "loky" in " ".join(child.cmdline()) and child.cpu_times().user > 1])
    finally:
        process.kill()
        process.communicate()


def test_workers_end_with_a_process_that_is_killed(probing):
    process, workers = probing
    process.kill()
    assert psutil.wait_procs(workers, timeout=60)[1] == []


def test_a_worker_that_is_killed_is_told_in_one_line(probing):
    process, workers = probing
    workers[0].kill()
    _, said = process.communicate(timeout=600)
    assert process.returncode == 1
    assert re.search(r"EvaluationError: a process that probes was killed .*evaluate\.full_vector_gib$", said, re.M)


def wait_for(found, seconds=600):
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return result


def test_a_strength_at_the_end_of_the_grid_is_warned_of(caplog):
    features, labels = clusters(2)
    params = PARAMS.model_copy(update={"strengths": (1e-2,)})
    with caplog.at_level(logging.WARNING):
        evaluate_all([features], labels, params, 0, workers=1)
    assert "clusters, logistic: the best strength, 0.01, is an end of evaluate.strengths" in caplog.text


def test_a_probe_short_of_its_tolerance_is_warned_of(caplog, monkeypatch):
    monkeypatch.setattr("nfk.evaluation.linear_classifiers.MOST_STEPS", 1)
    features, labels = clusters(2)
    with caplog.at_level(logging.WARNING):
        evaluate_all([features], labels, PARAMS, 0, workers=1)
    assert "clusters, squared_hinge: stopped short of its tolerance" in caplog.text


def test_a_name_given_twice_is_refused():
    features, labels = clusters(3)
    with pytest.raises(ValueError, match="'clusters': two representations of this name"):
        evaluate_all([features, features], labels, PARAMS, 0)


def test_callers_arrays_are_left_as_they_were():
    features, labels = clusters(4)
    before = features.train.copy()
    evaluate_features(features, labels, PARAMS, seed=0)
    np.testing.assert_array_equal(features.train, before)
