from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import nullcontext
from urllib.parse import urlsplit

import httpx
import pytest
from prefect import flow
from prefect.artifacts import Artifact, MarkdownArtifact, TableArtifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter
from prefect.context import SyncClientContext
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import artifacts
from tests.faults import proxy as proxies


@pytest.fixture
def through(prefect_server: str) -> Iterator[proxies.Proxy]:
    """A proxy before Prefect, for what is published alone."""
    port = urlsplit(prefect_server).port
    assert port is not None
    with proxies.before(port) as proxy:
        yield proxy


def publish(through: proxies.Proxy, *shown: Artifact, seconds: float = 60.0, **fault: bool) -> None:
    """In a run whose client alone takes that way, the fault lasting for so long: what Prefect sends in the background
    finds its server at the end of all tests."""
    with temporary_settings({PREFECT_API_URL: f"{through.address}/api"}):
        client = SyncClientContext()

    @flow
    def show() -> None:
        with client:
            through.reset(**fault)
            end = threading.Timer(seconds, through.mend)
            end.start()
            try:
                for artifact in shown:
                    artifacts.publish(artifact)
            finally:
                end.cancel()

    show()


def made(key: str) -> list[str]:
    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter.model_validate({"key": {"any_": [key]}})
        return sorted(str(found.data) for found in client.read_artifacts(artifact_filter=wanted))


def test_an_artifact_whose_answer_is_lost_is_made_once(
        through: proxies.Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "_PAUSES", (0.05, 0.05))
    publish(through, *(TableArtifact(key="lost", table=[{"accuracy": accuracy}]) for accuracy in (0.9, 0.8)),
            lose_each=True)
    assert through.lost.count("POST /api/artifacts/") == 2
    assert made("lost") == ['[{"accuracy": 0.8}]', '[{"accuracy": 0.9}]']


def test_an_artifact_waits_for_a_server_that_fails(
        through: proxies.Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "_PAUSES", (0.05, 2.0))
    publish(through, MarkdownArtifact(key="waits", markdown="text"), seconds=1.0, failing=True)
    assert made("waits") == ["text"] and len(through.calls) > 2


def test_a_server_that_fails_for_good_fails_the_run(through: proxies.Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "_PAUSES", (0.05,))
    with pytest.raises(PrefectHTTPStatusError, match="500"):
        publish(through, MarkdownArtifact(key="refused", markdown="text"), failing=True)


@pytest.mark.parametrize("status, tries", [(408, 2), (429, 2), (503, 2), (403, 1)])
def test_a_busy_server_is_asked_again_and_one_that_refuses_is_not(
        status: int, tries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def create(_: Artifact) -> None:
        asked.append(status)
        if len(asked) == 1:
            httpx.Response(status, request=httpx.Request("POST", "http://127.0.0.1/")).raise_for_status()

    monkeypatch.setattr(MarkdownArtifact, "create", create)
    monkeypatch.setattr(artifacts, "_PAUSES", (0.0,))
    monkeypatch.setattr(artifacts, "_is_there", lambda artifact: False)
    with nullcontext() if tries == 2 else pytest.raises(httpx.HTTPStatusError, match=str(status)):
        artifacts.publish(MarkdownArtifact(key="busy", markdown="text"))
    assert len(asked) == tries
