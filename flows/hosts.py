"""One stage by several processes as a Prefect flow: in a Kubernetes indexed Job, or by a SLURM job that it waits for.

NFK_STAGE and NFK_FAMILY of its environment (job variable `env`) say which: in the Job (the pool of
infra/hosts/pool.json) this flow is process 0, and the other pods read them too.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping

from prefect import flow, get_run_logger

from flows.plain_failures import WithoutTraceback
from flows.process_group import run_streamed
from nfk.hosts import INDEXED_JOB

STAGE, FAMILY = "NFK_STAGE", "NFK_FAMILY"
_LONGEST = 30 * 86_400.0  # seconds; a queue's own limit comes first


class HostsFailed(RuntimeError):
    """The processes were not started, or ended with an error; the message is one line."""


logging.getLogger("prefect.flow_runs").addFilter(WithoutTraceback(HostsFailed))


@flow(name="nfk-hosts")
def hosts() -> None:
    """The stage, to its end; HostsFailed otherwise. The same run again goes on from the last saved blocks."""
    command = launched(os.environ)
    ended = run_streamed(command, get_run_logger().info, seconds=_LONGEST)
    if ended.status != 0:
        raise HostsFailed(f"{' '.join(command)} ended with exit status {ended.status}: {ended.last_line}")


def launched(environment: Mapping[str, str]) -> list[str]:
    """The command: this process's part in the Job, or `sbatch` where there is SLURM. HostsFailed with neither."""
    missing = [name for name in (STAGE, FAMILY) if not environment.get(name)]
    if missing:
        raise HostsFailed(f"{' and '.join(missing)} not set: which stage, of which family; give them by the job "
                          "variable `env`")
    stage, family = environment[STAGE], environment[FAMILY]
    if INDEXED_JOB in environment:
        return ["nfk", stage, family, "--distributed"]
    if shutil.which("sbatch", path=environment.get("PATH")):
        return ["sbatch", "--wait", "infra/hosts/slurm.sh", stage, family]
    raise HostsFailed("neither a pod of the pool of infra/hosts/pool.json nor a host with sbatch; run the worker where "
                      "one of the two is")
