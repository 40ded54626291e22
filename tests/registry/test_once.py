"""What is made in MLflow is made once, whether the request or only its answer is lost."""

from __future__ import annotations

import os

import pytest

from nfk.registry import once
from nfk.tracking import delivery

RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(once, "FIRST_PAUSE", 0.0)
    monkeypatch.setenv(RETRIES, "5")


class Things:
    """Made one at a time; `faults`, of each try: None, or whether the request arrived before it failed."""

    def __init__(self, *faults: bool | None) -> None:
        self.made: list[str] = []
        self.faults = list(faults)

    def make(self) -> str:
        from mlflow.exceptions import MlflowException

        assert os.environ[RETRIES] == "0"
        arrived = self.faults.pop(0)
        if arrived is not False:
            self.made.append(f"thing {len(self.made)}")
        if arrived is not None:
            raise MlflowException("Connection aborted")
        return self.made[-1]

    def found(self) -> str | None:
        assert os.environ[RETRIES] == "5"
        return self.made[0] if self.made else None


@pytest.mark.parametrize("faults", [
    (None,), (True,), (False, None), (False, True), (False, False, None), (False, False, True)])
def test_it_is_made_once(faults):
    things = Things(*faults)
    assert once.made_once(things.found, things.make) == "thing 0"
    assert things.made == ["thing 0"] and things.faults == []
    assert once.made_once(things.found, things.make) == "thing 0"  # what is there is not made again


def test_three_requests_that_never_arrive_are_a_fault():
    from mlflow.exceptions import MlflowException

    things = Things(False, False, False, None)
    with pytest.raises(MlflowException, match="Connection aborted"):
        once.made_once(things.found, things.make)
    assert things.made == [] and things.faults == [None]


def test_the_sender_of_the_spool_sends_each_request_once_whatever_the_environment_says(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")
    environment = delivery._environment()
    assert (environment[RETRIES], environment["MLFLOW_HTTP_REQUEST_TIMEOUT"]) == ("0", "7")
