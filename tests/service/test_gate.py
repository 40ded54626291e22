"""Who is let in: names, tokens, sizes, places; each refusal early, in one line, and with its body thrown away."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from nfk.service import gate
from nfk.service.gate import Gate, Limits

TOKEN = "a-token-of-some-length"
LIMITS = Limits(body=100, inside=2, memory=1000, seconds=0.3)


class Client:
    """One request to an ASGI application, and what came back."""

    def __init__(self, body: bytes = b"x" * 10, *, method: str = "POST", path: str = "/embed", cuts: int = 1,
                 pause: float = 0.0, **headers: str) -> None:
        given = {"host": "127.0.0.1:8000", "content-length": str(len(body))} | {
            name.replace("_", "-"): value for name, value in headers.items()}
        self.scope = {"type": "http", "method": method, "path": path, "headers": [
            (name.encode(), value.encode()) for name, value in given.items() if value]}
        size = -(-len(body) // cuts) or 1
        self._parts = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
        self._pause, self.read, self.sent = pause, 0, []

    async def receive(self) -> dict[str, Any]:
        if self._pause:
            await asyncio.sleep(self._pause)
        if not self._parts:
            return {"type": "http.disconnect"}
        part = self._parts.pop(0)
        self.read += len(part)
        return {"type": "http.request", "body": part, "more_body": bool(self._parts)}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self) -> bytes:
        assert self.sent[-1].get("more_body", False) is False
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def error(self) -> str:
        found = json.loads(self.body)["error"]
        assert "\n" not in found
        return found


class Echo:
    """Answers with the length of the body, once `go` is set."""

    def __init__(self) -> None:
        self.go, self.bodies = asyncio.Event(), []
        self.go.set()

    async def __call__(self, scope, receive, send) -> None:
        if scope["method"] == "POST":
            message = await receive()
            assert not message["more_body"]
            self.bodies.append(message["body"])
        await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def inner():
    return Echo()


def gated(inner, *, token=None, limits=LIMITS) -> Gate:
    return Gate(inner, token=token, hosts=("localhost", "127.0.0.1", "[::1]"), limits=limits, retry_after=lambda: 7)


def ask(app, *clients: Client) -> None:
    async def all_of_them():
        await asyncio.gather(*(app(client.scope, client.receive, client.send) for client in clients))

    asyncio.run(all_of_them())


def test_a_body_arrives_whole(inner):
    client = Client(bytes(range(100)), cuts=7)
    ask(gated(inner), client)
    assert (client.status, client.body, inner.bodies) == (200, b"ok", [bytes(range(100))])


@pytest.mark.parametrize(("headers", "status"), [
    ({}, 401), ({"authorization": "Bearer wrong"}, 401), ({"authorization": TOKEN}, 401),
    ({"authorization": f"Bearer {TOKEN}"}, 200),
])
@pytest.mark.parametrize("path", ["/embed", "/neighbours", "/info", "/nothing"])
def test_a_token_is_asked_for_everywhere(inner, headers, status, path):
    client = Client(path=path, **headers)
    ask(gated(inner, token=TOKEN), client)
    assert client.status == status
    if status == 401:
        assert inner.bodies == []
        assert client.headers["www-authenticate"] == "Bearer"
        assert TOKEN not in client.error


def test_health_needs_no_token(inner):
    client = Client(method="GET", path="/health")
    ask(gated(inner, token=TOKEN), client)
    assert client.status == 200


@pytest.mark.parametrize(("headers", "status"), [
    ({"host": "localhost:8000"}, 200), ({"host": "[::1]:8000"}, 200), ({"host": "127.0.0.1"}, 200),
    ({"host": "evil.example"}, 403), ({"host": "127.0.0.1.evil.example"}, 403), ({"host": ""}, 403),
    ({"sec_fetch_site": "cross-site"}, 403), ({"sec_fetch_site": "same-origin"}, 200),
])
def test_without_a_token_no_page_of_another_site_gets_in(inner, headers, status):
    client = Client(**headers)
    ask(gated(inner), client)
    assert client.status == status


@pytest.mark.parametrize("length", ["", "101"])
def test_a_body_over_the_limit_is_413_whether_or_not_it_says_so(inner, length):
    client = Client(b"x" * 101, cuts=5, content_length=length)
    ask(gated(inner), client)
    assert client.status == 413
    assert "the body exceeds 100 bytes" in client.error
    assert inner.bodies == []
    assert client.read == 101  # thrown away, so that the client can read the answer


def test_nothing_is_read_of_a_client_that_asked_first(inner):
    client = Client(b"x" * 101, expect="100-continue")
    ask(gated(inner), client)
    assert (client.status, client.read) == (413, 0)


@pytest.mark.parametrize("length", ["-5", "many", "1" * 30, "١"])
def test_a_length_that_is_none_is_refused(inner, length):
    client = Client(content_length=length)
    ask(gated(inner), client)
    assert client.status == 400


def test_one_too_many_is_503_with_a_time_to_come_again_and_the_others_are_answered(inner, monkeypatch):
    app, clients = gated(inner), [Client() for _ in range(5)]
    inner.go.clear()

    async def three_are_refused_while_two_wait():
        tasks = [asyncio.create_task(app(client.scope, client.receive, client.send)) for client in clients]
        await asyncio.wait(tasks[2:], timeout=5)
        refused = [client for client in clients if client.sent]
        assert [client.status for client in refused] == [503] * 3
        inner.go.set()
        await asyncio.gather(*tasks)
        return refused

    refused = asyncio.run(three_are_refused_while_two_wait())
    assert all(client.headers["retry-after"] == "7" and "try again in 7 s" in client.error for client in refused)
    assert sorted(client.status for client in clients) == [200, 200, 503, 503, 503]
    assert (app.inside, app.answered, app.refused) == (0, 2, 3)
    late = Client()
    ask(app, late)
    assert late.status == 200


def test_bodies_of_more_than_the_memory_are_503(inner):
    app = gated(inner, limits=Limits(body=100, inside=50, memory=250, seconds=5.0))
    inner.go.clear()
    clients = [Client(b"x" * 90) for _ in range(3)] + [Client(b"x", content_length="")]  # the last may be 100

    async def run():
        tasks = [asyncio.create_task(app(client.scope, client.receive, client.send)) for client in clients]
        await asyncio.wait(tasks[2:], timeout=5)
        inner.go.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())
    assert [client.status for client in clients] == [200, 200, 503, 503]


def test_a_body_that_drips_is_408_and_gives_its_place_back(inner):
    app, client = gated(inner), Client(b"x" * 50, cuts=50, pause=0.05)
    ask(app, client)
    assert client.status == 408
    assert "did not arrive in 0.3 s" in client.error
    assert app.inside == 0


def test_a_client_that_goes_gives_its_place_back(inner):
    app, client = gated(inner), Client(b"x" * 50, content_length="60")
    client._parts = [b"x", *client._parts]
    client._parts = client._parts[:1]
    original = client.receive

    async def receive():
        message = await original()
        return message | {"more_body": True} if message["type"] == "http.request" else message

    client.receive = receive
    ask(app, client)
    assert client.sent == []
    assert app.inside == 0
    assert inner.bodies == []


def test_what_the_application_raises_does_not_reach_the_server():
    async def broken(scope, receive, send):
        raise RuntimeError("secret")

    app, client = gated(broken), Client()
    ask(app, client)
    assert client.sent == []
    assert app.inside == 0


def test_a_refusal_is_held_back_for_a_moment_but_not_a_second():
    low, high = gate._HELD
    assert 0 < low < high <= 0.5


def test_of_a_flood_few_are_held_back_and_the_rest_are_refused_at_once_and_sent_away(inner, monkeypatch):
    monkeypatch.setattr(gate, "_HELD", (0.5, 0.5))
    monkeypatch.setattr(gate, "_HELD_AT_ONCE", 3)
    app, clients = gated(inner), [Client() for _ in range(20)]
    inner.go.clear()

    async def fifteen_are_refused_before_the_three():
        tasks = [asyncio.create_task(app(client.scope, client.receive, client.send)) for client in clients]
        await asyncio.sleep(0.2)
        at_once = [client for client in clients if client.sent]
        inner.go.set()
        await asyncio.gather(*tasks)
        return at_once

    at_once = asyncio.run(fifteen_are_refused_before_the_three())
    held = [client for client in clients if client.status == 503 and client not in at_once]
    assert (len(at_once), len(held)) == (15, 3)
    assert all(client.headers["retry-after"] == "7" for client in at_once + held)
    assert {client.headers.get("connection") for client in at_once} == {"close"}
    assert {client.headers.get("connection") for client in held} == {None}
    assert app._held == 0


def test_of_other_protocols_only_the_servers_own_begin_and_end_are_passed_on():
    seen = []

    async def application(scope, receive, send):
        seen.append(scope["type"])

    app = gated(application)
    for kind in ("lifespan", "websocket"):
        asyncio.run(app({"type": kind, "path": "/embed", "headers": []}, None, None))
    assert seen == ["lifespan"]
    assert (app.refused, app.answered) == (0, 0)


def test_a_body_without_a_length_is_read_to_the_first_bytes_past_the_limit(inner):
    app, client = gated(inner), Client(b"x" * 300, cuts=30, content_length="", expect="100-continue")
    ask(app, client)
    assert client.status == 413
    assert client.error == "the body exceeds 100 bytes; send fewer images at once"
    assert client.read == 110
    assert inner.bodies == []


def test_of_a_refused_body_no_more_than_so_much_is_thrown_away(inner, monkeypatch):
    monkeypatch.setattr(gate, "_THROWN_AWAY", 50)
    app, client = gated(inner), Client(b"x" * 300, cuts=30)
    ask(app, client)
    assert (client.status, client.read) == (413, 50)
