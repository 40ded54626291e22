"""Where a process stands: flags, this project's variables, a Kubernetes indexed Job, SLURM, Open MPI."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from nfk import hosts
from nfk.hosts import HostsError, Place, place

INFRA = Path(__file__).parents[2] / "infra" / "hosts"


def test_flags_win_over_variables_and_a_job_numbers_its_pods():
    variables = {"NFK_COORDINATOR": "a:1", "NFK_PROCESSES": "4", "NFK_PROCESS": "3"}
    assert place(variables) == Place("a:1", 4, 3)
    assert place(variables, coordinator="b:2", process=0) == Place("b:2", 4, 0)
    assert place({**variables, "JOB_COMPLETION_INDEX": "1"}).process == 3
    del variables["NFK_PROCESS"]
    assert place({**variables, "JOB_COMPLETION_INDEX": "1"}).process == 1


def test_slurm_and_open_mpi_are_left_to_jax():
    slurm = dict.fromkeys(("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_NODELIST"), "1")
    assert place(slurm) == "slurm"
    assert place({"OMPI_MCA_orte_hnp_uri": "1.0;tcp://h:1", "OMPI_COMM_WORLD_SIZE": "2",
                  "OMPI_COMM_WORLD_RANK": "1"}) == "ompi"
    slurm.pop("SLURM_NTASKS")
    with pytest.raises(HostsError, match="--processes or NFK_PROCESSES"):
        place(slurm)


@pytest.mark.parametrize(("given", "word"), [
    ({"coordinator": "host:1", "processes": 2}, "--process or NFK_PROCESS missing"),
    ({"coordinator": "host", "processes": 2, "process": 0}, "must be HOST:PORT"),
    ({"coordinator": "host:1", "processes": 2, "process": 2}, "must be 0 to 1"),
])
def test_what_is_missing_or_wrong_is_named(given, word):
    with pytest.raises(HostsError, match=re.escape(word)):
        place({}, **given)


def test_a_variable_that_is_no_number_is_refused():
    with pytest.raises(HostsError, match="NFK_PROCESSES=four"):
        place({"NFK_COORDINATOR": "a:1", "NFK_PROCESSES": "four", "NFK_PROCESS": "0"})


def test_the_job_sets_what_the_code_reads():
    service, job = (YAML(typ="safe").load(INFRA / name) for name in ("service.yaml", "job.yaml"))
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    variables = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}
    found = place({**variables, hosts.INDEXED_JOB: "2"})
    assert found == Place(f"{job['metadata']['name']}-0.{service['metadata']['name']}:8476", spec["completions"], 2)
    assert spec["completionMode"] == "Indexed" and spec["parallelism"] == spec["completions"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"].items() <= job["spec"]["template"]["metadata"]["labels"].items()
    assert pod["containers"][0]["args"][-1] == "--distributed"


def test_the_slurm_script_is_a_script_and_starts_by_srun():
    script = INFRA / "slurm.sh"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert re.search(r"^srun .*nfk .* --distributed$", script.read_text(), re.MULTILINE)


def test_a_group_of_one_sums_to_the_bit():
    """`Hosts` over this process's own device: what crosses is unchanged, 64 bits too."""
    for dtype in (np.float32, np.float64, np.int32, np.int64):
        values = np.arange(7).astype(dtype).reshape(7, 1) / dtype(3) if dtype in (np.float32, np.float64) else (
            np.arange(7).astype(dtype).reshape(7, 1))
        found = hosts.Hosts(0, 1).total(values)
        assert found.dtype == dtype and np.array_equal(found, values)
