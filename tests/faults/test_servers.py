"""A part of `tests.faults.servers`: each kind of writing call once, and a server that is away for a moment."""

from __future__ import annotations

import re
from contextlib import nullcontext

import pytest

from nfk.registry import once
from tests.faults import servers


@pytest.fixture(scope="module")
def trials():
    with servers.trials(servers.Registration, servers.Promotion, servers.Replay, bare=True) as found:
        yield {type(trial.case): trial for trial in found}


def writes(calls: list[str]) -> dict[str, int]:
    """Of each kind of call that changes something, all files being one kind, the number of the last."""
    found = {}
    for number, call in enumerate(calls, 1):
        if not call.startswith("GET") and not call.endswith("/search"):
            found[re.sub(r"/mlflow-artifacts/.*|/m-[0-9a-f]{32}", "", call)] = number
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("case", [servers.Registration, servers.Promotion, servers.Replay], ids=lambda case: case.name)
def test_a_lost_answer_makes_nothing_twice_and_loses_nothing(trials, case):
    trial = trials[case]
    for number in writes(trial.calls).values():
        attempt = trial.lost_answer(number)
        assert attempt is not None and attempt.why is None, attempt.why


def test_what_mlflow_s_own_repeats_would_make_is_seen(trials, monkeypatch):
    """The same loss, were a request that creates repeated by MLflow's client: two runs, and the trial tells it."""
    monkeypatch.setattr(once, "_sent_once", nullcontext)
    trial = trials[servers.Registration]
    attempt = trial.lost_answer(writes(trial.calls)["POST /api/2.0/mlflow/runs/create"])
    assert attempt is not None and "MLflow has more" in attempt.why


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["failing", "refused"])
def test_a_server_that_was_away_hears_all_of_it_afterwards(trials, how):
    for case in (servers.Promotion, servers.Replay):
        attempt = trials[case].away(0.2, how)
        assert attempt.why is None, attempt.why
        assert attempt.failed > 0


def test_a_slow_server_is_waited_for(trials):
    attempt = trials[servers.Promotion].slow(0.1)
    assert attempt.why is None, attempt.why


def test_an_undisturbed_run_is_a_state_that_is_told_from_another(trials):
    wanted = trials[servers.Registration].wanted
    rows = [row for row in wanted if row.startswith(("model_versions ", "runs ", "logged_models ", "artifact "))]
    assert sum(wanted[row] for row in rows) > 8
    assert any("LABEL" in row and "'status': 'FINISHED'" in row for row in rows)
