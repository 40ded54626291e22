"""What `nfk doctor` finds in a folder that is well, and in one that is not."""

from __future__ import annotations

import base64
import http.server
import json
import shutil
import subprocess
import sys
import threading
from importlib import metadata

import numpy as np
import pytest

from nfk import doctor, store
from nfk.cli import app
from nfk.doctor import examine


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of the project's own kind: committed, with DVC, and one small store."""
    for variable in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "MLFLOW_TRACKING_USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("families: {gan: {model: dcgan}}\nsvd: {memory_gib: 0.01}\n")
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    with store.write("data/digits.zarr", inputs={}) as writer:
        writer.put("labels", np.arange(5))
    (tmp_path / ".gitignore").write_text("data\n.dvc/tmp\n")
    for command in (("init", "--quiet"), ("add", "--all"), ("commit", "--quiet", "--message", "start")):
        subprocess.run(("git", "-c", "user.name=t", "-c", "user.email=t@t", *command), check=True)
    return tmp_path


def found(state, **options):
    return [(finding.what, finding.found, finding.remedy) for finding in examine(**options) if finding.state == state]


def test_a_folder_that_is_well_has_no_fault_and_no_note(folder):
    assert found("fault") == []
    assert found("note") == []
    assert {what for what, *_ in found("ok")} == {
        "versions", "devices", "disk", "git", "dvc", "params", "memory", "data", "stores", "mlflow", "prefect"}


@pytest.mark.parametrize(("spoil", "what", "message"), [
    (lambda at: (at / "params.yaml").write_text("families: {gan: {model: dcgam}}\n"), "params", "did you mean 'dcgan'"),
    (lambda at: (at / "params.yaml").write_text("families: {gan: {model: dcgan}}\nsvd: {memory_gib: 1.0e+6}\n"),
     "memory", "svd.memory_gib=1e+06"),
    (lambda at: (at / "params.yaml").write_text(
        "families: {gan: {model: dcgan}}\ndata: {name: pets, source: pets.zip}\nsvd: {memory_gib: 0.01}\n"),
     "data", "pets.zip is not there"),
    (lambda at: (at / ".dvc/tmp/rwlock").touch(), "dvc", "rwlock is empty, left by a DVC that was killed"),
    (lambda at: (at / "data/digits.zarr" / store.MARKER).unlink(), "stores", "data/digits.zarr: unfinished"),
    (lambda at: shutil.rmtree(at / ".git"), "git", "no git repository with a commit"),
])
def test_what_is_amiss_is_named_with_its_remedy(folder, spoil, what, message):
    spoil(folder)
    (part, text, remedy), = found("fault")
    assert part == what
    assert message in text
    assert remedy


def test_a_flipped_bit_is_seen_when_every_byte_is_asked_for(folder):
    chunk = max((file for file in (folder / "data/digits.zarr/labels").rglob("*") if file.is_file()),
                key=lambda file: file.stat().st_size)
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    assert found("fault") == []
    (what, text, _), = found("fault", every_byte=True)
    assert what == "stores"
    assert "does not match its checksum" in text


@pytest.fixture
def cached(folder):
    """DVC's cache of a file and of a folder."""
    shutil.rmtree(folder / ".dvc")
    (folder / "kept.txt").write_text("kept")
    (folder / "folder").mkdir()
    (folder / "folder/a").write_text("a")
    for command in (["init", "--quiet"], ["add", "--quiet", "kept.txt", "folder"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], check=True)
    return folder / ".dvc/cache/files/md5"


def test_dvc_s_cache_is_held_against_its_names(cached):
    assert [text for what, text, _ in found("ok", every_byte=True) if what == "cache"] == [
        "3 of 3 files of DVC's cache: every byte as their names say"]
    files = sorted(file for file in cached.rglob("*") if file.is_file())
    assert len(files) == 3
    for file in files:
        content = file.read_bytes()
        file.chmod(0o644)
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        (what, text, remedy), = found("fault", every_byte=True)
        assert what == "cache" and str(file.relative_to(cached)) in text and remedy
        file.write_bytes(content)


def test_a_version_out_of_its_bounds_is_named(folder, monkeypatch):
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy<1", "no-such-package>=2", 'torch; extra == "x"'])
    assert [text.split(",")[0] for _, text, _ in found("fault")] == [
        f"numpy {metadata.version('numpy')}", "no-such-package is not installed"]


class Server(http.server.BaseHTTPRequestHandler):
    """Health is for all, anything else for the user `me` of password `right`."""

    def do_GET(self):
        allowed = f"Basic {base64.b64encode(b'me:right').decode()}"
        self.send_response(200 if "/health" in self.path or self.headers.get("Authorization") == allowed else 401)
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def address():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_servers_are_asked(folder, monkeypatch, address):
    monkeypatch.setenv("PREFECT_API_URL", f"{address}/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace("http://", "http://me:secret@"))
    (what, text, remedy), = found("fault")
    assert (what, "status 401" in text, "MLFLOW_TRACKING_USERNAME" in remedy) == ("mlflow", True, True)
    assert "secret" not in text
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "right")
    assert found("fault") == []
    monkeypatch.setattr(doctor, "_PATIENCE", 1.0)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    (what, text, _), = found("fault")
    assert (what, "does not answer (ConnectionError)" in text) == ("prefect", True)


def test_the_command_ends_with_1_where_something_is_at_fault(folder):
    from typer.testing import CliRunner

    assert CliRunner().invoke(app, ["doctor"]).output.splitlines()[-1] == "nothing is at fault"
    (folder / ".dvc/tmp/rwlock").touch()
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    assert [entry["what"] for entry in json.loads(done.stdout) if entry["state"] == "fault"] == ["dvc"]
