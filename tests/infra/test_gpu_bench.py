"""`infra/gpu/bench.sh` as it would be started beside a GPU, at its small size."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import grid

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "infra" / "gpu" / "bench.sh"


def bench(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, "--size", "small", *options], env=os.environ | {"PYTHON": sys.executable}, text=True,
                          capture_output=True, check=False)


def test_it_is_correct_then_timed_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    kept = tmp_path / "grid.json"
    to = ("--to", str(kept), "--only", "dcgan-small/32/float32/stream")
    assert "so far" in bench(*to, "--minutes", "0").stdout
    first = json.loads(kept.read_text())
    assert first.keys() == {"correct", "environment"}
    assert set(first["correct"]["dcgan-small"]) == {"rows", "explicit", "gram", "stored", "stream", "jvp"}
    done = bench(*to)
    assert "all there is" in done.stdout, done.stderr
    second = json.loads(kept.read_text())
    assert second["correct"] == first["correct"]
    assert second["rates"]["copy_bytes"] > 1e8
    assert second["accuracy"]["dcgan-small"]["float32"]["all"] < 1e-4
    rows = second["grid"]["dcgan-small/32/float32/stream"]
    assert [row["examples"] for row in rows] == [64, 128]
    for row in rows:
        assert row["times_floor"] > 1
        assert 2e8 < row["peak_bytes"] < 3e9
    assert "n=" not in bench(*to).stdout  # nothing is timed twice


def test_a_wrong_result_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = grid.core.whole
    monkeypatch.setattr(grid.core, "whole", lambda vectors: 1.01 * whole(vectors))
    with pytest.raises(grid.Incorrect, match=r"relative error .* exceeds"):
        grid.correct(grid.SIZES["small"])


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    (python := tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    (elsewhere := tmp_path / "infra" / "gpu").mkdir(parents=True)
    script = shutil.copy(SCRIPT, elsewhere)  # where no wheels were fetched
    done = subprocess.run([script], env={"PYTHON": str(python), "PATH": os.environ["PATH"]}, text=True,
                          capture_output=True, check=False)
    assert done.returncode == 2
    assert "run infra/gpu/carry.sh" in done.stderr
