"""`nfk deploy`: a deployment of infra/prefect.yaml made or brought up to date on the Prefect server in force."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

DEPLOYMENTS = Path("infra/prefect.yaml")
_FLOWS = {"refresh": "nfk-refresh", "pipeline": "nfk-pipeline", "sweep": "nfk-sweep", "hosts": "nfk-hosts"}


class DeployError(ValueError):
    """A deployment was not made; the message is one line."""


def deploy(name: str, *, every: float | None = None, cron: str | None = None) -> str:
    """Make the deployment `name`, scheduled as its file says, or every so many seconds, or by a cron line (UTC).

    What was scheduled before is cleared first: deploying again leaves old schedules active. Needs PREFECT_API_URL.
    Returns FLOW/NAME, which `prefect deployment run` takes.
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise DeployError("PREFECT_API_URL is not set: a deployment lives on a Prefect server; start one "
                          "(infra/local.sh up) and set it")
    if not DEPLOYMENTS.exists():
        raise DeployError(f"{DEPLOYMENTS}: no such file; run from the project's folder")
    if every is not None and cron is not None:
        raise DeployError("--every and --cron are two schedules; give one")
    if every is not None and every < 1:
        raise DeployError(f"--every {every:g} must be at least 1 second")
    flow = _FLOWS.get(name.partition("-")[0])
    if flow is None:
        raise DeployError(f"no deployment {name!r} in {DEPLOYMENTS}; they are called refresh..., pipeline..., "
                          "sweep... or hosts...")
    full = f"{flow}/{name}"
    _prefect("deployment", "schedule", "clear", "--accept-yes", full, check=False)  # not there yet the first time
    _prefect("deploy", "--prefect-file", str(DEPLOYMENTS), "--name", name)
    if every is not None or cron is not None:
        _prefect("deployment", "schedule", "clear", "--accept-yes", full)
        schedule = ("--interval", f"{every:g}") if every is not None else ("--cron", str(cron), "--timezone", "UTC")
        _prefect("deployment", "schedule", "create", *schedule, full)
    return full


def _prefect(*arguments: str, check: bool = True) -> None:
    environment = {"NFK_WORKSPACE": str(Path.cwd())} | os.environ
    done = subprocess.run([sys.executable, "-m", "prefect", "--no-prompt", *arguments], env=environment,
                          capture_output=True, text=True)
    if check and done.returncode != 0:
        last = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-1:]
        raise DeployError(f"prefect {' '.join(arguments[:2])} failed: {''.join(last).strip()}")
