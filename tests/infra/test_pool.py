"""The work pool that starts a stage as an indexed Job, and the flow that is its process 0: no cluster is needed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from nfk import hosts as processes
from nfk.hosts import Place, place

INFRA = Path(__file__).parents[2] / "infra"
TEMPLATE = json.loads((INFRA / "hosts" / "pool.json").read_text())
ASKED = {"processes": 3, "gpus": 8, "name": "big-otter", "env": {"NFK_STAGE": "svd", "NFK_FAMILY": "gan"}}


@pytest.fixture(scope="module")
def manifest() -> dict:
    """The Job that a worker would create, filled in by Prefect."""
    from prefect.workers.base import BaseJobConfiguration

    class Configuration(BaseJobConfiguration):
        job_manifest: dict

    class NoServer:
        """The template has neither blocks nor Prefect's variables."""

    return asyncio.run(Configuration.from_template_and_values(TEMPLATE, ASKED, client=NoServer())).job_manifest


def test_prefect_takes_the_template_and_the_deployment_s_variables():
    from prefect.server.schemas.actions import DeploymentCreate, WorkPoolCreate
    from prefect.utilities.schema_tools.validation import ValidationError

    pool = WorkPoolCreate(name="nfk-hosts", type="kubernetes", base_job_template=TEMPLATE)
    assert pool.base_job_template == TEMPLATE
    deployed, = (entry for entry in YAML(typ="safe").load(INFRA / "prefect.yaml")["deployments"]
                 if entry["name"] == "hosts-kubernetes")
    variables = deployed["work_pool"]["job_variables"]
    created = {"name": "hosts-kubernetes", "flow_id": "0" * 32}
    DeploymentCreate(**created, job_variables=variables).check_valid_configuration(TEMPLATE)
    with pytest.raises(ValidationError, match="0 is less than the minimum of 1"):
        DeploymentCreate(**created, job_variables=variables | {"processes": 0}).check_valid_configuration(TEMPLATE)
    with pytest.raises(ValueError, match=r"undeclared variable\(s\): claim"):
        undeclared = {**TEMPLATE["variables"], "properties": {
            name: entry for name, entry in TEMPLATE["variables"]["properties"].items() if name != "claim"}}
        WorkPoolCreate(name="nfk-hosts", base_job_template={**TEMPLATE, "variables": undeclared})


def test_the_job_is_the_one_that_is_started_by_hand(manifest):
    by_hand = YAML(typ="safe").load(INFRA / "hosts" / "job.yaml")["spec"]
    made = manifest["spec"]
    assert made["completions"] == made["parallelism"] == 3
    assert made["completionMode"] == by_hand["completionMode"] == "Indexed"
    assert made["template"]["metadata"] == by_hand["template"]["metadata"]
    ours, theirs = made["template"]["spec"], by_hand["template"]["spec"]
    for name in ("subdomain", "restartPolicy", "volumes"):
        assert ours[name] == theirs[name], name
    for name in ("image", "workingDir", "volumeMounts"):
        assert ours["containers"][0][name] == theirs["containers"][0][name], name
    assert ours["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": 8}}


@pytest.mark.parametrize(("index", "expected"), [(0, "prefect flow-run execute"), (2, "nfk svd gan --distributed")])
def test_each_pod_runs_its_part_and_knows_its_place(manifest, tmp_path, index, expected):
    for name in ("prefect", "nfk"):
        (tmp_path / name).write_text('#!/bin/sh\necho "${0##*/} $*"\nenv\n')
        (tmp_path / name).chmod(0o755)
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    environment = {**container["env"], "PATH": f"{tmp_path}{os.pathsep}{os.defpath}",
                   "HOSTNAME": f"big-otter-x7k2p-{index}", processes.INDEXED_JOB: str(index)}
    first, *lines = subprocess.run(container["args"], env=environment, capture_output=True, text=True,
                                   check=True).stdout.splitlines()
    assert first == expected
    assert place(dict(line.split("=", 1) for line in lines)) == Place("big-otter-x7k2p-0.nfk-hosts:8476", 3, index)


def test_the_flow_is_process_0_of_the_job_or_waits_for_slurm(tmp_path):
    from flows.hosts import HostsFailed, launched

    asked = {**ASKED["env"], "PATH": str(tmp_path)}
    assert launched({**asked, processes.INDEXED_JOB: "0"}) == ["nfk", "svd", "gan", "--distributed"]
    with pytest.raises(HostsFailed, match="nor a host with sbatch"):
        launched(asked)
    (tmp_path / "sbatch").touch(mode=0o755)
    assert launched(asked) == ["sbatch", "--wait", "infra/hosts/slurm.sh", "svd", "gan"]
    with pytest.raises(HostsFailed, match="NFK_FAMILY not set"):
        launched(asked | {"NFK_FAMILY": ""})
