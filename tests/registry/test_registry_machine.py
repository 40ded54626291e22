"""A registry under any sequence of registrations, promotions, rollbacks, deletions and cuts, against a small model."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nfk import registry
from nfk.params import TrackingParams
from nfk.registry.registration import _candidates
from tests.registry.test_promotion import NAME, PAIRED, add

METRICS = st.sampled_from([0.80, 0.85, 0.90, 0.95])
PLACES = st.integers(0, 20)
CHANGES = {"set_registered_model_alias", "set_model_version_tag", "delete_model_version_tag"}


class Cut(BaseException):
    """The process ends here."""


class CutClient:
    """A client in whose n-th change the process ends, before it arrives or when its answer is due."""

    def __init__(self, client: Any, at: int, arrives: bool) -> None:
        self._client, self._left, self._arrives = client, at, arrives

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if name not in CHANGES:
            return found

        def change(*arguments: Any) -> Any:
            self._left -= 1
            if self._left >= 0:
                return found(*arguments)
            if self._arrives:
                found(*arguments)
            raise Cut

        return change


class RegistryMachine(RuleBasedStateMachine):
    """The model: each version's metric, whom it followed, who was rolled back, and the champion."""

    client: Any = None  # of the test that runs it

    def __init__(self) -> None:
        super().__init__()
        self.metric: dict[str, float] = {}
        self.former: dict[str, str | None] = {}
        self.rolled: set[str] = set()
        self.champion: str | None = None
        self.newest = 0

    @initialize()
    def empty(self):
        for model in self.client.search_registered_models():
            self.client.delete_registered_model(model.name)
        add(self.client)

    def chosen(self, place: int) -> str:
        return sorted(self.metric, key=int)[place % len(self.metric)]

    # --- what the model says of an operation ---

    def promoted(self, version: str, force: bool) -> bool:
        """Whether it becomes champion; the model after it."""
        old = self.champion
        if version == old:
            self.rolled.discard(version)
            return True
        if not force and old is not None and (version in self.rolled or self.metric[version] < self.metric[old]):
            return False
        self.rolled.discard(version)
        self.former[version], self.champion = old, version
        if force and old is not None:
            self.rolled.add(old)
        return True

    def rolled_back(self) -> bool:
        former = self.former.get(self.champion or "")
        if self.champion is None or former is None or former not in self.metric:
            return False
        self.rolled.add(self.champion)
        self.champion = former
        return True

    # --- operations ---

    @rule(metric=METRICS)
    def register(self, metric):
        (reference,) = add(self.client, metric)
        self.newest += 1
        assert reference == f"{NAME}/{self.newest}"
        _candidates(self.client, reference, f"{PAIRED}/{self.newest}")
        self.metric[str(self.newest)] = metric

    def promote_by(self, client, version, force) -> bool:
        try:
            registry.promote(client, f"{NAME}/{version}", force=force)
        except registry.NotGoodEnough as refusal:
            assert "\n" not in str(refusal)
            return False
        return True

    @precondition(lambda self: self.metric)
    @rule(place=PLACES, force=st.booleans())
    def promote(self, place, force):
        version = self.chosen(place)
        assert self.promote_by(self.client, version, force) == self.promoted(version, force)

    @precondition(lambda self: self.metric)
    @rule(place=PLACES, force=st.booleans(), at=st.integers(0, 6), arrives=st.booleans())
    def promote_and_be_cut_off(self, place, force, at, arrives):
        """The same command again: as if nothing had been."""
        version, before = self.chosen(place), self.champion
        with suppress(Cut):
            self.promote_by(CutClient(self.client, at, arrives), version, force)
        self.one_champion({before, version, *([self.champion] if self.champion else [])})
        assert self.promote_by(self.client, version, force) == self.promoted(version, force)

    @rule()
    def rollback(self):
        self.roll_back_by(self.client)

    def roll_back_by(self, client) -> None:
        try:
            registry.rollback(client, NAME)
        except registry.RegistryError as refusal:
            assert "\n" not in str(refusal)
            assert not self.rolled_back()
        else:
            assert self.rolled_back()

    @precondition(lambda self: self.champion is not None)
    @rule(at=st.integers(0, 3), arrives=st.booleans())
    def rollback_and_be_cut_off(self, at, arrives):
        """Either champion, never both and never none; what was begun ends by the same command, or by promoting whom
        it restored."""
        before = self.champion
        try:
            self.roll_back_by(CutClient(self.client, at, arrives))
        except Cut:
            found = self.champions()
            assert len(found) == 1
            if found == [before]:
                self.roll_back_by(self.client)
            else:
                assert self.rolled_back() and found == [self.champion]
                assert self.promote_by(self.client, self.champion, False) and self.promoted(self.champion, False)

    @precondition(lambda self: self.metric)
    @rule(place=PLACES)
    def delete(self, place):
        """By a person, in MLflow."""
        version = self.chosen(place)
        for name in (NAME, PAIRED):
            self.client.delete_model_version(name, version)
        del self.metric[version]
        self.former.pop(version, None)
        self.rolled.discard(version)
        if self.champion == version:
            self.champion = None

    # --- what holds after each ---

    def champions(self) -> list[str]:
        return [entry.version for entry in registry.entries(self.client, NAME) if "champion" in entry.aliases]

    def one_champion(self, of: set[str | None]) -> None:
        found = self.champions()
        assert len(found) <= 1 and (found or [None])[0] in of

    @invariant()
    def the_registry_is_as_the_model_has_it(self):
        found = {entry.version: entry for entry in registry.entries(self.client, NAME)}
        assert {version: entry.metric for version, entry in found.items()} == self.metric
        paired = [entry for entry in registry.entries(self.client, PAIRED) if "champion" in entry.aliases]
        for champions in ([entry for entry in found.values() if "champion" in entry.aliases], paired):
            assert [entry.version for entry in champions] == ([self.champion] if self.champion else [])
        assert {version for version, entry in found.items() if "nfk.rolled_back" in entry.tags} == self.rolled


@pytest.mark.slow
def test_any_sequence(monkeypatch):
    from hypothesis.stateful import run_state_machine_as_test

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with tempfile.TemporaryDirectory() as folder, registry.connect(
            TrackingParams(uri=f"sqlite:///{folder}/mlflow.db")) as client:
        monkeypatch.setattr(RegistryMachine, "client", client)
        run_state_machine_as_test(RegistryMachine, settings=settings(
            max_examples=25, stateful_step_count=20, deadline=None, database=None, derandomize=True,
            phases=[Phase.generate],  # each example takes seconds: to shrink one, minutes
            suppress_health_check=list(HealthCheck)))
