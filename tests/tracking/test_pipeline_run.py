from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nfk.tracking import new_pipeline_run_id, pipeline_run_id
from nfk.tracking.pipeline_run import nobody_finishes

ROOT = Path(__file__).parents[2]
PRINT_ID = (f"{sys.executable} -c 'import sys; sys.path.insert(0, \"{ROOT}\"); "
            "from nfk.tracking import pipeline_run_id; print(pipeline_run_id())'")


def dvc(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], check=True, capture_output=True)


def test_the_environment_names_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NFK_PIPELINE_RUN", "it's 1")
    assert pipeline_run_id() == "it-s-1"
    assert not nobody_finishes("it-s-1")


def test_new_ids_differ() -> None:
    assert new_pipeline_run_id() != new_pipeline_run_id()


@pytest.mark.usefixtures("workspace")
def test_outside_of_a_pipeline_there_is_no_run() -> None:
    assert pipeline_run_id() is None


@pytest.mark.usefixtures("workspace")
def test_stages_of_one_dvc_repro_share_an_id_and_the_next_has_another() -> None:
    dvc("init", "-q", "--no-scm")
    Path("dvc.yaml").write_text("stages:\n" + "".join(
        f"  {name}:\n    cmd: >-\n      {PRINT_ID} >> ids\n    always_changed: true\n" for name in "ab"))
    dvc("repro")
    dvc("repro")
    first, second, third, fourth = Path("ids").read_text().split()
    assert first == second != third == fourth
    assert nobody_finishes(first)
