"""`nfk serve` under load: nothing lost, refusals in time, health, memory, and requests that no client should send.

    python -m tests.benchmarks.serve_load [--requests 20000] [--overload-seconds 60] [--malformed 20000]
                                          [--soak-seconds 1800] [--part PART]

The embedder is an untrained LeNet-5 on 28 x 28 images, rank 32; the service and its clients share this machine, so that
a client's own work is in every time. Parts:

    steady      64 clients send all requests, one image each, every vector checked
    overload    256 clients that ask again at once when refused, /health asked every 20 ms meanwhile
    tenfold     256 clients that send ten times what the service can do, 16 images a request, and wait for no answer
                before the next; /health meanwhile
    malformed   requests wrong in one of 39 ways: 4xx in one line, no trace
    soak        20 requests a second of 16 images each, for half an hour: every vector checked, memory within 2 %

The result is results/serve_load.json; a part run alone replaces just its own entry. `kept` tells for each bound whether
it was: nothing lost, no vector wrong, refusals within 1 s and /health within 100 ms (the 99th of a hundred), memory
within 5 % (2 % of the soak), malformed ones 4xx alone. On a machine whose cores others want (`load_average`) the times
are upper bounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from nfk.embedder import Embedder
from nfk.family_params import Lenet5Params
from tests.benchmarks.environment import environment
from tests.service.load import flood, form, malformed, png, press, send_raw, watched
from tests.service.small_embedder import Running, running, write

RESULTS = Path(__file__).parent / "results" / "serve_load.json"
SHAPE, RANK, IMAGES = (28, 28, 1), 32, 64
PARTS = ("steady", "overload", "tenfold", "malformed", "soak")
IMAGES_A_REQUEST, TIMES, SOAK_RATE = 16, 10, 20.0
_REFUSED, _HEALTH, _DRIFT, _SOAK_DRIFT = 1000.0, 100.0, 0.05, 0.02  # milliseconds, milliseconds, share, share


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--requests", type=int, default=20_000)
    options.add_argument("--overload-seconds", type=float, default=60.0)
    options.add_argument("--malformed", type=int, default=20_000)
    options.add_argument("--soak-seconds", type=float, default=1800.0)
    options.add_argument("--part", choices=PARTS, action="append")
    asked = options.parse_args()
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with TemporaryDirectory(prefix="nfk-load-") as scratch:
        folder = write(Path(scratch), config=Lenet5Params(), shape=SHAPE, rank=RANK)
        pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, *SHAPE)).astype(np.uint8)
        expected = Embedder.load(folder)(pixels.astype(np.float32) / np.float32(255))
        bodies = [png(image) for image in pixels]
        with running(folder, log=Path(scratch) / "log") as service:
            for part in asked.part or PARTS:
                kept[part] = {"steady": lambda: steady(service, bodies, expected, asked.requests),
                              "overload": lambda: overload(service, bodies, expected, asked.overload_seconds),
                              "tenfold": lambda: tenfold(service, bodies, expected, asked.overload_seconds),
                              "malformed": lambda: wrong(service, bodies[0], asked.malformed),
                              "soak": lambda: soak(service, bodies, expected, asked.soak_seconds)}[part]()
                kept[part]["kept"] = bounds(part, kept[part])
                kept[part]["load_average"] = round(os.getloadavg()[0], 1)  # of processes that want one of the cores
                print(part, json.dumps(kept[part], indent=1), flush=True)
        log = (Path(scratch) / "log").read_text()
        print(log[-1000:])
        assert "Traceback" not in log
    RESULTS.write_text(json.dumps({**kept, "environment": environment()}, indent=1, sort_keys=True) + "\n")


def steady(service: Running, bodies: list[bytes], expected: np.ndarray, requests: int) -> dict[str, Any]:
    with watched(service.port, service.process.pid) as seen:
        told = asyncio.run(press(service.address, bodies, expected, clients=64, requests=requests,
                                 tolerance=1e-4 * np.abs(expected).max()))
    return {**told.summary(), "health": seen.summary(), **_memory(seen)}


def overload(service: Running, bodies: list[bytes], expected: np.ndarray, seconds: float) -> dict[str, Any]:
    """First /health of the idle service, which is what this machine gives at best, and the capacity, by half as many
    clients as are let in; then twice as many, who do not wait when refused."""
    tolerance = 1e-4 * np.abs(expected).max()
    with watched(service.port, service.process.pid) as idle:
        time.sleep(5)
    capacity = asyncio.run(press(service.address, bodies, expected, clients=64, seconds=5, tolerance=tolerance))
    with watched(service.port, service.process.pid) as seen:
        told = asyncio.run(press(service.address, bodies, expected, clients=256, seconds=seconds,
                                 tolerance=tolerance))
    return {**told.summary(), "capacity_a_second": capacity.summary()["requests_a_second"],
            "health": seen.summary(), "health_of_the_idle_service": idle.summary(), **_memory(seen)}


def tenfold(service: Running, bodies: list[bytes], expected: np.ndarray, seconds: float) -> dict[str, Any]:
    """The capacity by requests of 16 images, more than can be answered; then ten times that, sent whether or
    not anything is answered."""
    tolerance = 1e-4 * np.abs(expected).max()
    forms, wanted = several(bodies, expected)
    most = asyncio.run(flood(service.address, forms, wanted, clients=64, rate=200.0, seconds=3, tolerance=tolerance))
    capacity = most.statuses["200"] / most.wall
    with watched(service.port, service.process.pid) as seen:
        told = asyncio.run(flood(service.address, forms, wanted, clients=256, rate=TIMES * capacity, seconds=seconds,
                                 tolerance=tolerance))
    summary = told.summary()
    return {**summary, "images_a_request": IMAGES_A_REQUEST, "capacity_a_second": round(capacity, 1),
            "sent_a_second": round(summary["requests"] / told.sent_seconds, 1),
            "times_the_capacity": round(summary["requests"] / told.sent_seconds / capacity, 1),
            "health": seen.summary(), **_memory(seen)}


def soak(service: Running, bodies: list[bytes], expected: np.ndarray, seconds: float) -> dict[str, Any]:
    """An even load, well below the capacity, for long."""
    forms, wanted = several(bodies, expected)
    with watched(service.port, service.process.pid) as seen:
        told = asyncio.run(flood(service.address, forms, wanted, clients=16, rate=SOAK_RATE, seconds=seconds,
                                 tolerance=1e-4 * np.abs(expected).max()))
    return {**told.summary(), "images_a_request": IMAGES_A_REQUEST, "health": seen.summary(), **_memory(seen)}


def several(bodies: list[bytes], expected: np.ndarray) -> tuple[list[bytes], np.ndarray]:
    """Requests of 16 images each, and their vectors."""
    places = [[(start + step) % IMAGES for step in range(IMAGES_A_REQUEST)] for start in range(0, IMAGES, 4)]
    return [form([bodies[at] for at in row]) for row in places], np.stack([expected[row] for row in places])


def bounds(part: str, found: dict[str, Any]) -> dict[str, bool]:
    """Which bounds were kept."""
    statuses = set(found["statuses"])
    told = {"health": found["health"]["failed"] == 0 and found["health"]["milliseconds"]["p99"] <= _HEALTH,
            "memory": abs(found["memory_drift"]) <= (_SOAK_DRIFT if part == "soak" else _DRIFT)}
    if part == "steady":
        del told["memory"]  # from a cold start: it grows until every size of block has been seen
    if part == "malformed":
        return {**told, "4xx": all(status.startswith("4") for status in statuses),
                "one line": found["traces"] == found["answers_of_several_lines"] == 0}
    told |= {"none lost": "lost" not in statuses, "none wrong": found["wrong"] == 0}
    if part in ("steady", "soak"):
        return {**told, "all answered": statuses == {"200"}}
    refused = [found["milliseconds"][status]["p99"] for status in statuses & {"429", "503"}]
    return {**told, "refusals": bool(refused) and max(refused) <= _REFUSED,
            "statuses": statuses <= {"200", "429", "503"}}


def wrong(service: Running, image: bytes, count: int) -> dict[str, Any]:
    random, statuses, traces, lines = np.random.default_rng(1), Counter(), 0, 0
    with watched(service.port, service.process.pid) as seen:
        for _ in range(count):
            status, body = send_raw(service.port, *malformed(random, image))
            statuses[str(status)] += 1
            traces += b"Traceback" in body or b'File "' in body
            lines += body.strip().count(b"\n") > 0
    return {"requests": count, "statuses": dict(sorted(statuses.items())), "traces": traces,
            "answers_of_several_lines": lines, "health": seen.summary(), **_memory(seen)}


def _memory(seen: Any) -> dict[str, Any]:
    return {"memory_drift": round(seen.drift, 4), "resident_mb": [round(seen.resident[0] / 1e6, 1),
                                                                  round(max(seen.resident) / 1e6, 1)]}


if __name__ == "__main__":
    main()
