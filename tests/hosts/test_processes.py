"""Several processes on loopback give what one does, and go on where one of them was killed."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from nfk import store
from tests.hosts.processes import run, started, wait_for
from tests.stages.conftest import workspace  # noqa: F401 - a fixture

FAMILIES = {"mlp": {"model": "mlp", "hidden": 6, "epochs": 1, "batch": 8}}
SVD = {"rank": 4, "oversampling": 8, "strategy": "stream", "passes": 8, "block": 4, "tolerance": 1e-6,
       "accept_unconverged": True}
SECTIONS = {"svd": SVD, "embed": {"block": 4}, "statistics": {"model_samples": 32, "block": 4},
            "tracking": {"uri": "sqlite:///mlflow.db"}}
MADE = {"statistics": "statistics", "svd": "factors", "embed": "embeddings"}


@pytest.fixture
def alone(workspace, tmp_path, monkeypatch):  # noqa: F811
    """A folder with the results of one process, and in `of` what each of its stores holds."""
    settings = workspace.params(FAMILIES, **SECTIONS)
    (tmp_path / "params.yaml").write_text(json.dumps(settings.model_dump(mode="json")))
    workspace.run(settings, "mlp", "pretrain", "statistics", "svd", "embed")
    return tmp_path


def arrays(folder) -> dict[str, np.ndarray]:
    found = store.read(folder)
    return {name: np.asarray(found[name][:]) for name in found.arrays}


def largest_angle(a: np.ndarray, b: np.ndarray) -> float:
    """Of the principal angles between two subspaces with orthonormal columns: its sine, exact for small ones."""
    return float(np.linalg.norm(b.astype(float) - a.astype(float) @ (a.T.astype(float) @ b.astype(float)), 2))


def same_factors(one: dict[str, np.ndarray], many: dict[str, np.ndarray]) -> None:
    np.testing.assert_allclose(many["singular_values"], one["singular_values"], rtol=1e-5)
    assert largest_angle(one["right"], many["right"]) < 1e-3
    assert largest_angle(one["left"], many["left"]) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("count, commands", [(1, ["svd"]), (2, ["statistics", "svd", "embed"]), (4, ["svd"])])
def test_processes_give_what_one_gives(alone, count, commands):
    stages = [MADE[command] for command in commands]
    one = {stage: arrays(alone / stage / "mlp.zarr") for stage in stages}
    scale = np.abs(arrays(alone / "embeddings" / "mlp.zarr")["train"]).max()
    for stage in stages:
        shutil.rmtree(alone / stage)
    for command, stage in zip(commands, stages, strict=True):
        run([command, "mlp"], count, alone)
        many = arrays(alone / stage / "mlp.zarr")
        assert many.keys() == one[stage].keys()
        if stage == "factors":
            same_factors(one[stage], many)
            shards = list((alone / stage / "mlp.zarr" / "left").glob("c.*"))
            assert sum(path.is_file() for path in shards) == count  # a whole one for each process
        for name in one[stage] if stage != "factors" else ():
            np.testing.assert_allclose(many[name], one[stage][name], rtol=2e-4, atol=1e-5 * scale)
    assert not list(alone.glob(".nfk/scratch/*")), "scratch is left"


@pytest.mark.slow
def test_one_killed_ends_the_others_by_a_word_and_the_next_run_goes_on(alone):
    one = arrays(alone / "factors" / "mlp.zarr")
    shutil.rmtree(alone / "factors")
    scratch = f".nfk/scratch/svd-mlp-{'?' * 20}/process-2-of-4"
    with started(["svd", "mlp"], 4, alone, NFK_SAVE_SECONDS="0") as processes:
        wait_for(lambda: list(alone.glob(f"{scratch}/krylov-2.safetensors")), processes)
        processes[2].kill()
        said = [process.communicate(timeout=600)[1] for process in processes]
    for index in (0, 1, 3):
        assert processes[index].returncode == 2
        assert f"nfk: process {index} of 4 has lost another one" in said[index]
        assert "Traceback" not in said[index]
    assert not (alone / "factors").exists() or not list((alone / "factors").iterdir())
    with started(["svd", "mlp"], 4, alone, NFK_PROGRESS="json") as processes:
        said = [process.communicate(timeout=900)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said
    passes = [json.loads(line)["what"] for line in said[0].splitlines() if '"what": "pass ' in line]
    assert passes and not any(what.startswith(("pass 1 ", "pass 2 ")) for what in passes), passes
    same_factors(one, arrays(alone / "factors" / "mlp.zarr"))
