"""`nfk serve` as a process: what it answers, what it refuses, under load, and how it ends."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nfk.embedder import Embedder
from nfk.service import server
from nfk.service.remote import WorkerError
from nfk.service.server import Options, ServeError, serve
from tests.service.load import malformed, png, press, send_raw, slow_senders, watched
from tests.service.small_embedder import running, write
from tests.service.test_images import form

TOKEN = "0123456789abcdef0123"
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 12, 12, 1)).astype(np.uint8)
BODIES = [png(image) for image in PIXELS]


def test_the_process_that_answers_brings_no_jax_with_it():
    code = "import sys, nfk.service.server; print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def embedder(folder):
    return Embedder.load(folder)


@pytest.fixture(scope="module")
def expected(embedder):
    return embedder(PIXELS.astype(np.float32) / np.float32(255))


@pytest.fixture(scope="module")
def service(folder, embedder, expected):
    """With an index of the first twelve images."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(expected[:12].reshape(-1)), 4)
    table = pa.table({"id": [f"{place}.png" for place in range(12)], "embedding": column})
    digests = {f"digest.{name}": digest for name, digest in embedder.inputs.items()}
    pq.write_table(table.replace_schema_metadata(digests), folder.parent / "index.parquet")
    log = folder.parent / "log"
    with running(folder, "--index", "index.parquet", "--block", "8", log=log) as found:
        yield found
    assert found.process.returncode == 0
    said = log.read_text()
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("nfk serve: ended; ")


def ask(service, method, path, body=None, sent=lambda: None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    sent()
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    return answer.status, content, answer.headers


def test_health_and_info(service, embedder):
    assert ask(service, "GET", "/health")[:2] == (200, {"status": "ok"})
    status, info, _ = ask(service, "GET", "/info")
    assert status == 200
    assert (info["model"], info["version"], info["rank"], info["image_shape"]) == (
        "small-embedder", "local", 4, [12, 12, 1])
    assert info["inputs"] == dict(embedder.inputs)
    assert info["lineage"]["digest.model"] == embedder.inputs["model"]
    assert len(info["digest"]) == 64
    assert info["index"]["vectors"] == 12


def test_files_forms_and_numbers_give_the_embedder_s_own_vectors(service, expected):
    body, kind = form({f"{place}.png": content for place, content in enumerate(BODIES)})
    numbers = json.dumps((PIXELS.astype(np.float32) / np.float32(255)).tolist())
    tolerance = 1e-5 * np.abs(expected).max()
    for content, given, names in ((body, kind, [f"{place}.png" for place in range(24)]),
                                  (numbers, "application/json", None), (BODIES[0], "image/png", None)):
        status, found, _ = ask(service, "POST", "/embed", content, Content_Type=given)
        assert status == 200
        assert found["names"] == names
        assert {"model", "version", "digest", "rank"} <= found.keys()
        np.testing.assert_allclose(found["vectors"], expected[: len(found["vectors"])], rtol=0, atol=tolerance)
    assert len(found["vectors"]) == 1
    few = ask(service, "POST", "/embed?k=2", body, Content_Type=kind)[1]["vectors"]
    np.testing.assert_allclose(few, expected[:, :2], rtol=0, atol=tolerance)


def test_neighbours_of_indexed_images_are_themselves(service):
    body, kind = form({f"{place}": content for place, content in enumerate(BODIES[:12])})
    status, found, _ = ask(service, "POST", "/neighbours?count=3", body, Content_Type=kind)
    assert status == 200
    assert [near[0]["id"] for near in found["neighbours"]] == [f"{place}.png" for place in range(12)]
    assert all(len(near) == 3 and 10 * near[0]["distance"] < near[1]["distance"] for near in found["neighbours"])


def test_the_description_for_machines_names_every_address(service):
    _, described, _ = ask(service, "GET", "/openapi.json")
    assert set(described["paths"]) == {"/health", "/info", "/embed", "/neighbours"}
    assert "image/png" in described["paths"]["/embed"]["post"]["requestBody"]["content"]


@pytest.mark.parametrize(("method", "path", "status", "message"), [
    ("POST", "/embed?k=5", 422, "k=5: must be between 1 and 4, the rank of this embedder"),
    ("POST", "/embed?k=two", 422, "k=two: Input should be a valid integer"),
    ("POST", "/neighbours?count=0", 422, "count=0: Input should be greater than or equal to 1"),
    ("GET", "/embed", 405, "Method Not Allowed: there are GET /health"),
    ("POST", "/else", 404, "Not Found: there are GET /health"),
])
def test_a_wrong_address_or_option_is_one_line(service, method, path, status, message):
    found, content, _ = ask(service, method, path, BODIES[0] if method == "POST" else None, Content_Type="image/png")
    assert found == status
    assert content["error"].startswith(message)


def test_64_clients_lose_nothing_and_256_are_refused_in_time_with_health_at_hand(service, expected):
    """The short form of tests/benchmarks/serve_load.py. On slow machines the clients are slower than the service, so
    most of its room is taken by others, and how long a refusal takes is asked by a client in a process of its own:
    among 256 in one process it is their wait for each other."""
    tolerance = 1e-4 * np.abs(expected).max()
    told = asyncio.run(press(service.address, BODIES, expected, clients=64, requests=600, tolerance=tolerance))
    assert told.statuses == {"200": 600}
    assert told.wrong == 0
    with watched(service.port, service.process.pid, BODIES[0]) as seen, slow_senders(service.port, 120):
        told = asyncio.run(press(service.address, BODIES, expected, clients=256, seconds=2.0, tolerance=tolerance))
    assert told.statuses.keys() == {"200", "503"}
    assert told.wrong == 0
    assert seen.refused and np.median(seen.refused) < 1
    assert seen.failed == 0
    assert np.median(seen.health) < 0.1


def test_malformed_requests_are_4xx_in_one_line(service):
    random, statuses = np.random.default_rng(1), Counter()
    for _ in range(150):
        request = malformed(random, BODIES[0])
        if request[1] == "/neighbours":
            continue  # well formed here
        status, body = send_raw(service.port, *request)
        statuses[status] += 1
        assert 400 <= status < 500, (request, status, body)
        assert b"Traceback" not in body and b"\n" not in body.strip(), body
    assert {400, 404, 405, 413, 415, 422} <= statuses.keys()
    assert ask(service, "GET", "/health")[0] == 200


@pytest.mark.parametrize(("soft", "hard", "asked", "expected"), [
    (1024, 1_048_576, (16_384, 1_048_576), 8192), (1024, 1024, None, 512), (100_000, 100_000, None, 8192),
    (1024, resource.RLIM_INFINITY, (16_384, resource.RLIM_INFINITY), 8192),
])
def test_as_many_connections_as_the_system_can_be_asked_for(monkeypatch, soft, hard, asked, expected):
    set_to = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: set_to.append(limits))
    assert server._connections() == expected
    assert set_to == ([asked] if asked else [])


def test_where_the_system_gives_no_more_files_those_it_gave_are_shared(monkeypatch):
    def refuse(*_):
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert server._connections() == 128


# --- start and end ---


def test_sigterm_finishes_what_is_queued_and_ends_with_0(folder, expected, tmp_path):
    """When 8 requests of 240 images are sent, the signal comes: all are answered."""
    with running(folder, "--block", "1", log=tmp_path / "log", NFK_SERVE_TOKEN=TOKEN) as service:
        assert ask(service, "GET", "/info")[0] == 401
        assert ask(service, "GET", "/info", Authorization=f"Bearer {TOKEN}")[0] == 200
        answers = []
        body, kind = form({f"{place}": BODIES[place % 24] for place in range(240)})

        def client():
            answers.append(ask(service, "POST", "/embed", body, sent.release, Content_Type=kind,
                               Authorization=f"Bearer {TOKEN}"))

        sent, threads = threading.Semaphore(0), [threading.Thread(target=client) for _ in range(8)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert sent.acquire(timeout=60)
        service.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        assert service.process.wait(60) == 0
    assert [status for status, *_ in answers] == [200] * 8
    for _, found, _ in answers:
        np.testing.assert_allclose(found["vectors"], np.tile(expected, (10, 1)), rtol=0,
                                   atol=1e-4 * np.abs(expected).max())
    said = (tmp_path / "log").read_text()
    assert re.search(r"^nfk serve: ending; [1-8] requests are finished first$", said, re.M)
    assert "nfk serve: ended; 8 requests answered, 1 refused" in said
    assert TOKEN not in said


def test_another_address_than_loopback_needs_a_token(monkeypatch, folder, tmp_path):
    monkeypatch.delenv("NFK_SERVE_TOKEN", raising=False)
    with pytest.raises(ServeError, match=r"--host 0\.0\.0\.0 is reached from other machines and needs a token"):
        serve(str(folder), Options(host="0.0.0.0", port=0))
    monkeypatch.setenv("NFK_SERVE_TOKEN", "short")
    with pytest.raises(ServeError, match="NFK_SERVE_TOKEN: a token must be 16 printable ASCII characters or more") as e:
        serve(str(folder), Options(host="0.0.0.0", port=0))
    assert "short" not in str(e.value)
    with pytest.raises(ServeError, match=r"--token-file .*none: cannot be read"):
        serve(str(folder), Options(token_file=tmp_path / "none"))


def test_a_port_in_use_and_a_block_of_no_power_are_refused_before_anything_is_loaded(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=rf"--port {port}: Address already in use; give another"):
            serve("nfk-none-embedder@champion", Options(port=port))
    with pytest.raises(ServeError, match="--block 12: must be a power of two, such as 8"):
        serve(str(folder), Options(port=0, block=12))


def test_an_embedder_that_cannot_be_loaded_is_refused_in_its_own_words(folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    weights = broken / "model" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(WorkerError, match=r"weights\.safetensors: SHA-256 \w+ is not \w+"):
        serve(str(broken), Options(port=0))


def test_if_the_process_that_embeds_is_killed_the_service_ends_and_says_so(folder, tmp_path):
    with running(folder, "--block", "1", log=tmp_path / "log") as service:
        worker, = psutil.Process(service.process.pid).children()
        worker.kill()
        assert service.process.wait(60) == 2
    assert (tmp_path / "log").read_text().splitlines()[-1] == (
        "nfk: the embedder's process ended, and the service with it; was there enough memory?")


def test_if_the_service_is_killed_no_process_is_left(folder, tmp_path):
    with running(folder, "--block", "1", log=tmp_path / "log") as service:
        worker, = psutil.Process(service.process.pid).children()
        service.process.kill()
        worker.wait(60)
        assert not worker.is_running()
