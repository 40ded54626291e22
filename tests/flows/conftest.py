"""A workspace with a tiny DVC pipeline, and one Prefect server for all tests."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import colorama
import pytest

import flows  # noqa: F401 - its settings, before Prefect is imported

# MLflow's and DVC's imports put it around the streams, which pytest exchanges for each test
colorama.init = colorama.deinit = colorama.reinit = lambda *_, **__: None

# fit@vae records where it ran, then does what the file `order` says: nothing, fail, be killed, or wait with a child
DVC_YAML = f"""\
stages:
  report:
    cmd: cat gan.txt vae.txt > report.txt
    deps: [gan.txt, vae.txt]
    outs: [report.txt]
  fit:
    foreach: ${{families}}
    do:
      cmd: {sys.executable} fit.py ${{key}} ${{item.model}}
      deps: [data.txt, fit.py]
      outs: ["${{key}}.txt"]
  data:
    cmd: echo reading && echo 0 > data.txt
    outs: [data.txt]
"""
FIT = """\
import json, os, pathlib, subprocess, sys, time
family = sys.argv[1]
print(f"fitting {family}", flush=True)
seen = {key: os.environ.get(key) for key in ("NFK_PIPELINE_RUN", "PATH")}
pathlib.Path(f"seen-{family}.json").write_text(json.dumps(seen))
order = pathlib.Path("order")
order = order.read_text() if family == "vae" and order.exists() else ""
if order == "fail":
    sys.exit("loss is NaN at step 3")
if order == "fail once":
    pathlib.Path("order").unlink()
    sys.exit("loss is NaN at step 3")
if order == "be killed":
    from nfk.workspace_lock import stage_lock
    with stage_lock(pathlib.Path(".nfk/locks/fit@vae.lock")):
        os.kill(os.getpid(), 9)
if order == "wait":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    pathlib.Path("pids").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(300)
pathlib.Path(f"{family}.txt").write_text(family)
"""
PARAMS = "families: {gan: {model: dcgan}, vae: {model: conv_vae}}\n"


@pytest.fixture(scope="session")
def _first_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once, since each `dvc` takes seconds to start."""
    folder = tmp_path_factory.mktemp("first-workspace")
    for name, text in (("dvc.yaml", DVC_YAML), ("fit.py", FIT), ("params.yaml", PARAMS)):
        (folder / name).write_text(text)
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    # DVC's daemons would hold the workspace's lock for a while after it
    (folder / ".dvc/config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    for command in (["add", "."], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "start"]):
        subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def workspace(_first_workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("NFK_PIPELINE_RUN", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(_first_workspace, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture(autouse=True, scope="session")
def _prefect_speaks_to_the_test_that_runs() -> Iterator[None]:
    """Its handlers keep the stream of the test in which they were made."""
    from prefect.logging.handlers import PrefectConsoleHandler

    emit, handlers = PrefectConsoleHandler.emit, set()

    def emit_here(handler: PrefectConsoleHandler, record: logging.LogRecord) -> None:
        handlers.add(handler)
        handler.console.file = sys.stderr
        emit(handler, record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PrefectConsoleHandler, "emit", emit_here)
        yield
    for handler in handlers:  # its servers say goodbye when no test runs any more
        handler.console.file = sys.__stderr__


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API of a server with a database and a home of its own."""
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    home = tmp_path_factory.mktemp("prefect")
    with (pytest.MonkeyPatch.context() as environment, temporary_settings({PREFECT_HOME: home}),
          prefect_test_harness(server_startup_timeout=180)):
        environment.setenv("PREFECT_HOME", str(home))  # for the flows that tests start as processes
        yield str(PREFECT_API_URL.value())


@pytest.fixture
def untracked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No MLflow: `finish` arrives at once."""
    monkeypatch.setattr("nfk.tracking.finish", lambda *_, **__: True)
