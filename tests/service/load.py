"""Clients that press on a service, and what became of each of their requests."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import math
import multiprocessing
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np
import psutil
from PIL import Image

PNG = {"Content-Type": "image/png"}
FORM = {"Content-Type": "multipart/form-data; boundary=b"}


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(out, "PNG")
    return out.getvalue()


@dataclass
class Told:
    """What the clients met."""

    statuses: Counter[str] = field(default_factory=Counter)
    """by status; "lost" for a connection that broke"""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    wrong: int = 0
    """answers 200 with the vector of another image, or refusals that do not say when to come again"""
    wall: float = 0.0
    sent_seconds: float = 0.0
    """in which all was sent, where that waits for no answers"""

    def add(self, status: str, seconds: float) -> None:
        self.statuses[status] += 1
        self.seconds.setdefault(status, []).append(seconds)

    def summary(self) -> dict[str, Any]:
        total = sum(self.statuses.values())
        return {"requests": total, "statuses": dict(sorted(self.statuses.items())), "wrong": self.wrong,
                "wall_seconds": round(self.wall, 2), "requests_a_second": round(total / self.wall, 1),
                "milliseconds": {status: percentiles(seconds) for status, seconds in sorted(self.seconds.items())}}


def percentiles(seconds: list[float]) -> dict[str, float]:
    return {name: round(1e3 * float(np.quantile(seconds, share)), 2)
            for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))}


@contextmanager
def slow_senders(port: int, count: int) -> Iterator[None]:
    """So many clients that have sent the head of a request and take their time over its body."""
    head = f"POST /embed HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {PNG['Content-Type']}\r\nContent-Length: 9"
    with ExitStack() as connections:
        for _ in range(count):
            connection = connections.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            connection.sendall(f"{head}\r\n\r\n".encode())
        yield


async def press(
    address: str, bodies: list[bytes], expected: np.ndarray, *, clients: int, requests: int | None = None,
    seconds: float | None = None, tolerance: float,
) -> Told:
    """`clients` that each send one image after another, at once upon the answer, refused or not; until `requests`
    are answered or `seconds` are over, but one a client at least. Every vector is held against the one expected of
    that image."""
    told, started = Told(), time.monotonic()
    places = iter(range(requests)) if requests is not None else iter(range(1 << 62))

    async def client(session: aiohttp.ClientSession) -> None:
        for place in places:
            if seconds is not None and place >= clients and time.monotonic() - started > seconds:
                return
            which, asked = place % len(bodies), time.monotonic()
            try:
                async with session.post(f"{address}/embed", data=bodies[which], headers=PNG) as answer:
                    body = await answer.read()
                    told.add(str(answer.status), time.monotonic() - asked)
                    if answer.status == 200:
                        vector = np.array(json.loads(body)["vectors"][0])
                        told.wrong += not np.abs(vector - expected[which]).max() <= tolerance
                    elif answer.status == 503:
                        told.wrong += not 1 <= int(answer.headers.get("Retry-After", "0")) <= 30
            except aiohttp.ClientError:
                told.add("lost", time.monotonic() - asked)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=clients),
                                     timeout=aiohttp.ClientTimeout(total=120)) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    told.wall = time.monotonic() - started
    return told


async def flood(
    address: str, forms: list[bytes], expected: np.ndarray, *, clients: int, rate: float, seconds: float,
    tolerance: float,
) -> Told:
    """`rate` requests a second for so many seconds, drawn in turn to `clients` that wait for no answer before the next:
    the load does not fall when the service slows down. A request is one of `forms` (of the images `expected[i]`), each
    vector is held against its own."""
    told, tasks, started = Told(), set(), time.monotonic()
    sessions = [aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=120))
                for _ in range(clients)]

    async def ask(session: aiohttp.ClientSession, which: int) -> None:
        asked = time.monotonic()
        try:
            async with session.post(f"{address}/embed", data=forms[which], headers=FORM) as answer:
                body = await answer.read()
                told.add(str(answer.status), time.monotonic() - asked)
                if answer.status == 200:
                    vectors = np.array(json.loads(body)["vectors"])
                    told.wrong += not np.abs(vectors - expected[which]).max() <= tolerance
                elif answer.status in (429, 503):
                    told.wrong += not 1 <= int(answer.headers.get("Retry-After", "0")) <= 30
        except aiohttp.ClientError:
            told.add("lost", time.monotonic() - asked)

    try:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
            task = asyncio.create_task(ask(sessions[number % clients], number % len(forms)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        told.sent_seconds = time.monotonic() - started
        while tasks:
            await asyncio.sleep(0.05)
    finally:
        for session in sessions:
            await session.close()
    told.wall = time.monotonic() - started
    return told


def form(images: list[bytes]) -> bytes:
    """A request of several images, as `FORM` says it is."""
    parts = [b'--b\r\nContent-Disposition: form-data; name="i%d"; filename="%d.png"\r\nContent-Type: image/png\r\n\r\n'
             % (place, place) + image + b"\r\n" for place, image in enumerate(images)]
    return b"".join(parts) + b"--b--\r\n"


@dataclass
class Watched:
    """Health and memory of a service while something else went on, as clients meet them in a process of their own."""

    health: list[float] = field(default_factory=list)
    failed: int = 0
    refused: list[float] = field(default_factory=list)
    """seconds until a refusal, by status 503, of an image that was also sent, where one was; no end where none came"""
    resident: list[int] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        return {"probes": len(self.health), "failed": self.failed, "milliseconds": percentiles(self.health)}

    @property
    def drift(self) -> float:
        """Of resident memory: the median of the last fifth over that of the second fifth (the first warms up), less
        one."""
        fifth = max(1, len(self.resident) // 5)
        return float(np.median(self.resident[-fifth:]) / np.median(self.resident[fifth : 2 * fifth]) - 1)


@contextmanager
def watched(port: int, process: int, image: bytes | None = None) -> Iterator[Watched]:
    """Asks /health every 20 ms, each time on a new connection and from a process of its own, and reads the service's
    resident memory every 0.25 s. With an image, four more threads there send it again and again."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    prober = context.Process(target=_probe, args=(port, process, image, theirs), daemon=True)
    prober.start()
    theirs.close()  # so that the end of a prober that cannot start is seen
    ours.recv()  # it has started
    found = Watched()
    try:
        yield found
    finally:
        ours.send("end")
        found.health, found.failed, found.resident, found.refused = ours.recv()
        prober.join()


def _probe(port: int, process: int, image: bytes | None, to: Any) -> None:
    health, failed, resident, measured = [], 0, [], 0.0
    refused: list[float] = []
    service = psutil.Process(process)
    parts = [service, *service.children()]  # the process that answers and the one that embeds
    to.send("started")
    for _ in range(0 if image is None else 4):  # a refusal is held back for up to half a second
        threading.Thread(target=_send, args=(port, image, refused), daemon=True).start()
    while not to.poll(0.02):
        asked = time.monotonic()
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/health")
            failed += connection.getresponse().status != 200
            connection.close()
        except OSError:
            failed += 1
        health.append(time.monotonic() - asked)
        if asked - measured >= 0.25:
            resident.append(sum(part.memory_info().rss for part in parts))
            measured = asked
    to.recv()
    to.send((health, failed, resident, refused))


def _send(port: int, image: bytes, refused: list[float]) -> None:
    while True:
        asked = time.monotonic()
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("POST", "/embed", image, PNG)
            if connection.getresponse().status == 503:
                refused.append(time.monotonic() - asked)
            connection.close()
        except (OSError, http.client.HTTPException):
            refused.append(math.inf)
            time.sleep(0.1)


# --- what no client should send ---


def malformed(random: np.random.Generator, image: bytes) -> tuple[str, str, dict[str, str], bytes]:
    """A request that is wrong in one of many ways, drawn at random: method, path, headers, body."""
    noise = random.bytes(int(random.integers(1, 2000)))
    at = int(random.integers(8, len(image) // 2))
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    part = b'--b\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n\r\n'
    as_json = {"Content-Type": "application/json"}
    ways: list[tuple[str, str, dict[str, str], bytes]] = [
        ("POST", "/embed", PNG, noise),
        ("POST", "/embed", PNG, image[:at]),
        ("POST", "/embed", PNG, image[:16] + random.bytes(8) + image[24:]),  # another width and height
        ("POST", "/embed", PNG, b""),
        ("POST", "/embed", {"Content-Type": "image/jpeg"}, b"\xff\xd8\xff" + noise),
        ("POST", "/embed", PNG, png(random.integers(0, 255, (5, 7, 3)).astype(np.uint8))),
        ("POST", "/embed", {"Content-Type": noise[:20].hex()}, image),
        ("POST", "/embed", form, part + image[:at] + b"\r\n"),
        ("POST", "/embed", form, noise),
        ("POST", "/embed", form, part + noise + b"\r\n--b--\r\n"),
        ("POST", "/embed", form, b"--b\r\n\r\n\r\n--b--\r\n"),
        ("POST", "/embed", form, (part + b"x\r\n") * 700 + b"--b--\r\n"),
        ("POST", "/embed", {"Content-Type": "multipart/form-data"}, part + image),
        ("POST", "/embed", as_json, noise),
        ("POST", "/embed", as_json, b"[" * int(random.integers(1, 5000))),
        ("POST", "/embed", as_json, b'{"images": ' + b"[" * 70 + b"]" * 70 + b"}"),
        ("POST", "/embed", as_json, json.dumps([[[int(random.integers(300))] * 12] * 12]).encode()),
        ("POST", "/embed", as_json, b'{"images": [[["a"]]]}'),
        ("POST", "/embed", as_json, json.dumps([[["0.5"] * 12] * 12]).encode()),
        ("POST", "/embed", as_json, json.dumps([[[True] * 12] * 12]).encode()),
        ("POST", "/embed", as_json, json.dumps([[[1e39] * 12] * 12]).encode()),
        ("POST", "/embed", as_json, json.dumps([[[10**25] * 12] * 12]).encode()),
        ("POST", "/embed", as_json, b"null"),
        ("POST", "/embed", as_json, b'{"images": {}}'),
        ("POST", f"/embed?k={noise[:4].hex()}x", PNG, image),
        ("POST", "/embed?k=-1", PNG, image),
        ("POST", "/embed?resize=perhaps", PNG, image),
        ("POST", "/neighbours?count=0", PNG, image),
        ("POST", "/neighbours", PNG, image),  # of a service without an index
        ("PUT", "/embed", PNG, image),
        ("GET", f"/{noise[:30].hex()}", {}, b""),
        ("GET", "/../../etc/passwd", {}, b""),
        ("POST", "/%00%ff", PNG, image),
        ("POST", "/embed", {**PNG, "Content-Length": "999999999999"}, b""),
        ("POST", "/embed", {**PNG, "Content-Length": "-5"}, b""),
        ("POST", "/embed", {**PNG, "Content-Length": "many"}, b""),
        ("POST", "/embed", {**PNG, "Transfer-Encoding": "chunked"}, b"zz\r\n" + noise),
        ("POST", "/embed", {**PNG, "Host": "elsewhere.example"}, image),
        (noise[:8].hex(), "/embed", PNG, image),
    ]
    return ways[int(random.integers(len(ways)))]


def send_raw(port: int, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
    """One request, byte for byte as given, on a connection of its own; the status and the body of the answer."""
    lines = {"Host": "127.0.0.1", "Connection": "close", "Content-Length": str(len(body)), **headers}
    if "Transfer-Encoding" in lines:
        del lines["Content-Length"]
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(head.encode("latin-1") + body)
        answer = http.client.HTTPResponse(connection, method="POST")
        answer.begin()
        return answer.status, answer.read()
