"""From a finished workspace to a registered, served and rebuilt embedder, with MLflow's real server of models."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nfk import store
from tests.pipeline.conftest import TINY
from tests.service.load import png

pytestmark = pytest.mark.slow

REFERENCE = "nfk-classifier-embedder@candidate"


@pytest.fixture(scope="module")
def registered(tiny):
    """The clone with one family run and registered, nothing uncommitted."""
    tiny.nfk("repro")
    tiny.nfk("registry", "register", "classifier")
    return tiny


@pytest.fixture(scope="module")
def digits(registered):
    """Real images of the data set, 8-bit, and their embeddings as the pipeline made them."""
    data = store.read(registered.folder / "data/digits.zarr")
    embeddings = store.read(registered.folder / "embeddings/classifier.zarr")
    return data["images"][:256], embeddings["train"][:256]


def test_an_entry_leads_back_to_data_weights_and_code(registered):
    shown = registered.nfk("registry", "show", REFERENCE).stdout
    commit = registered.run("git", "rev-parse", "HEAD").stdout.strip()
    digest = store.read_marker(registered.folder / "embeddings/classifier.zarr")["digest"]
    for expected in (f"git.commit {commit}", "git.dirty false", f"digest.embeddings {digest}",
                     "gate.metric nfk-12.logistic.validation_accuracy"):
        assert expected in shown
    assert "dvc.out.models/classifier/weights.safetensors md5:" in shown


def test_the_same_bits_are_registered_once(registered):
    before = registered.nfk("registry", "list").stdout
    again = registered.nfk("registry", "register", "classifier").stdout
    assert again.startswith("nfk-classifier-embedder/1 @candidate ")
    assert registered.nfk("registry", "list").stdout == before


def test_a_folder_of_images_is_embedded_offline_as_the_pipeline_did(registered, digits, tmp_path):
    pixels, expected = digits
    for row in range(5):
        Image.fromarray(pixels[row, :, :, 0]).save(tmp_path / f"{row}.png")
    out = tmp_path / "vectors.parquet"
    registered.nfk("embed", "--model", REFERENCE, str(tmp_path), "--to", str(out))
    table = pq.read_table(out)
    assert table["id"].to_pylist() == [f"{row}.png" for row in range(5)]
    found = np.array(table["embedding"].to_pylist(), np.float32)
    np.testing.assert_allclose(found, expected[:5], rtol=0, atol=1e-5 * np.abs(expected).max())
    assert table.schema.metadata[b"embedder"].decode().startswith("nfk-classifier-embedder/")


def test_images_of_another_size_are_refused_in_one_line(registered, tmp_path):
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "small.png")
    done = registered.nfk("embed", "--model", REFERENCE, str(tmp_path), "--to", str(tmp_path / "o.zarr"), check=False)
    assert done.returncode == 2
    assert "images of shape (1, 9, 9, 1): must be (n, 28, 28, 1)" in done.stdout
    assert not (tmp_path / "o.zarr").exists()


@pytest.fixture(scope="module")
def served(registered):
    """The address of MLflow's server of this model, ended by its own process group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = registered.folder / ".nfk" / "serve.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", f"models:/{REFERENCE}", "--host",
             "127.0.0.1", "--port", str(port), "--env-manager", "local"], cwd=registered.folder,
            env=registered.environment | {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"},
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 600
        while True:
            try:
                urllib.request.urlopen(f"{address}/ping", timeout=5).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(log.read_text()[-3000:]) from None
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def post(address: str, body: object) -> tuple[int, str]:
    request = urllib.request.Request(f"{address}/invocations", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_served_embedder_answers_as_the_pipeline_did(served, digits):
    pixels, expected = digits
    images = (pixels.astype(np.float32) / np.float32(255)).tolist()
    status, text = post(served, {"inputs": images})
    assert status == 200
    found = np.array(json.loads(text)["predictions"])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    status, text = post(served, {"inputs": images[:3], "params": {"k": 4}})
    few = np.array(json.loads(text)["predictions"])
    np.testing.assert_allclose(few, expected[:3, :4], rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("inputs, params, message", [
    (np.zeros((1, 9, 9, 1)), {}, "9, 9, 1"),
    (np.full((1, 28, 28, 1), 200.0), {}, "must be finite, in [0, 1]"),
    (np.zeros((1, 28, 28, 1)), {"k": 13}, "k=13 must be between 1 and 12"),
    ([["a"]], {}, ""),
])
def test_a_bad_request_is_status_400_and_no_trace(served, inputs, params, message):
    body = inputs.tolist() if isinstance(inputs, np.ndarray) else inputs
    status, text = post(served, {"inputs": body, "params": params} if params else {"inputs": body})
    assert status == 400
    assert message in text
    assert "Traceback" not in json.loads(text).get("message", text)


def ask_with_image(address: str, pixels: np.ndarray) -> dict:
    request = urllib.request.Request(address, png(pixels), {"Content-Type": "image/png"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)


def first_row(registered) -> int:
    return int(store.read(registered.folder / "embeddings/classifier.zarr")["train_id"][0])


def test_nfk_serve_answers_as_the_pipeline_did(registered, digits):
    pixels, expected = digits
    server = subprocess.Popen([sys.executable, "-m", "nfk", "serve", REFERENCE, "--port", "0", "--index",
                               "embeddings/classifier.zarr", "--block", "4"], cwd=registered.folder, text=True,
                              env=registered.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        ready = server.stdout.readline()
        loaded = r"nfk-classifier-embedder/\d+ \(28 x 28 x 1 -> 12 numbers\), .* on (http://\S+)"
        address = re.search(loaded, ready).group(1)
        with urllib.request.urlopen(f"{address}/info", timeout=300) as answer:
            info = json.load(answer)
        commit = registered.run("git", "rev-parse", "HEAD").stdout.strip()
        assert (info["model"], info["lineage"]["git.commit"]) == ("nfk-classifier-embedder", commit)
        assert info["lineage"]["digest.embedder"] == info["digest"]
        vector, near = (ask_with_image(f"{address}/{path}", pixels[0]) for path in ("embed", "neighbours?count=1"))
        np.testing.assert_allclose(vector["vectors"][0], expected[0], rtol=0, atol=1e-5 * np.abs(expected).max())
        assert near["neighbours"][0][0]["id"] == f"train/{first_row(registered)}"
    finally:
        server.send_signal(signal.SIGTERM)
        _, said = server.communicate(timeout=300)
    assert server.returncode == 0, said


def test_an_embedder_that_was_changed_in_the_store_is_not_loaded(registered, tmp_path):
    weights, = registered.folder.glob("mlruns/**/artifacts/embedder/model/weights.safetensors")
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        for command in (("serve", REFERENCE), ("embed", "--model", REFERENCE, str(tmp_path))):
            done = registered.nfk(*command, check=False)
            assert done.returncode == 2
            assert "digest.embedder is" in done.stdout and "nothing of them was loaded" in done.stdout
    finally:
        weights.write_bytes(content)


def test_an_entry_is_rebuilt_from_its_commit_and_lock_with_the_same_digests(registered):
    output = registered.nfk("registry", "rebuild", REFERENCE).stdout
    for name in ("data", "model", "statistics", "factors", "embeddings"):
        assert any(line.startswith(name) and line.endswith("agrees") for line in output.splitlines()), output


def test_what_was_made_with_uncommitted_changes_is_not_rebuilt(registered):
    registered.write_params(f"{TINY}registry: {{metric: knn}}\n")  # judged otherwise: another pair
    try:
        registered.nfk("registry", "register", "classifier")
    finally:
        registered.write_params(TINY)
    done = registered.nfk("registry", "rebuild", REFERENCE, check=False)
    assert done.returncode == 2
    assert "with changes that no commit holds" in done.stdout
