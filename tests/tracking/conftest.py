"""A workspace of its own for each test: a git repository with MLflow's embedded store in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from nfk.tracking import StageRecord

STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def git(*arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments], check=True,
                   capture_output=True)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, made once: that takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    code = f"from mlflow import MlflowClient; MlflowClient('sqlite:///{path}').search_experiments()"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=path.parent)
    return path


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("NFK_PIPELINE_RUN", "MLFLOW_TRACKING_URI", "GIT_DIR"):
        monkeypatch.delenv(name, raising=False)
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "start")
    return tmp_path


@pytest.fixture
def store(workspace: Path, empty_database: Path) -> Path:
    """The workspace with MLflow's database ready."""
    shutil.copyfile(empty_database, workspace / "mlflow.db")
    return workspace


@pytest.fixture
def record() -> Callable[..., StageRecord]:
    """Makes records of `svd@gan`; `minute` is when it started."""
    def make(minute: int = 0, **fields: Any) -> StageRecord:
        started = STARTED + timedelta(minutes=minute)
        given = {"stage": "svd", "family": "gan", "started": started, "ended": started + timedelta(seconds=9)}
        return StageRecord(**given | fields)
    return make
