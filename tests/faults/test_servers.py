"""A part of `tests.faults.servers`: some calls whose answer is lost, and a server away for a moment."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from nfk.registry import once
from tests.faults import servers


@pytest.fixture(scope="module")
def trials():
    with servers.trials(servers.Registration, servers.Promotion, servers.Replay, bare=True) as found:
        yield {type(trial.case): trial for trial in found}


def last(trial: servers.Trial, call: str) -> int:
    """The number of the last of these calls."""
    return max(number for number, made in enumerate(trial.calls, 1) if made.startswith(call))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("case", "call"), [
    (servers.Registration, "POST /api/2.0/mlflow/runs/create"),
    (servers.Registration, "POST /api/2.0/mlflow/model-versions/create"),
    (servers.Promotion, "POST /api/2.0/mlflow/registered-models/alias"),
    (servers.Replay, "POST /api/2.0/mlflow/runs/create"),
], ids=lambda of: getattr(of, "name", of))
def test_a_lost_answer_makes_nothing_twice_and_loses_nothing(trials, case, call):
    attempt = trials[case].lost_answer(last(trials[case], call))
    assert attempt is not None and attempt.why is None, attempt.why


def test_what_mlflow_s_own_repeats_would_make_is_seen(trials, monkeypatch):
    """The same loss, were a request that creates repeated by MLflow's client: two runs, and the trial tells it."""
    monkeypatch.setattr(once, "_sent_once", nullcontext)
    trial = trials[servers.Registration]
    attempt = trial.lost_answer(last(trial, "POST /api/2.0/mlflow/runs/create"))
    assert attempt is not None and "MLflow has more" in attempt.why


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("case", "how"), [(servers.Promotion, "failing")])
def test_a_server_that_was_away_hears_all_of_it_afterwards(trials, case, how):
    attempt = trials[case].away(0.1, how)
    assert attempt.why is None, attempt.why
    assert attempt.failed > 0


def test_an_undisturbed_run_is_a_state_that_is_told_from_another(trials):
    wanted = trials[servers.Registration].wanted
    rows = [row for row in wanted if row.startswith(("model_versions ", "runs ", "logged_models ", "artifact "))]
    assert sum(wanted[row] for row in rows) > 8
    assert any("LABEL" in row and "'status': 'FINISHED'" in row for row in rows)
