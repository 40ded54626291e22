"""Processes on one or many hosts as one group, by `jax.distributed`.

Each process computes its own rows on its own devices and its arrays never leave it; only sums do, by one all-reduce
over one device of each process (gloo on CPUs, NCCL on GPUs). No array is spread over processes, so that rows need no
padding, a pass is resumed block by block by each process for itself, and the float64 algebra on the host is what it is
for one.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

COORDINATOR, PROCESSES, PROCESS = "NFK_COORDINATOR", "NFK_PROCESSES", "NFK_PROCESS"
INDEXED_JOB = "JOB_COMPLETION_INDEX"
"""Kubernetes numbers the pods of an indexed Job by it."""
_DETECTED = {"slurm": ("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_NODELIST"),
             "ompi": ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")}
"""Launchers that JAX reads all three from, and the variables it needs"""
_SLAB = 64 << 20


class HostsError(ValueError):
    """The processes cannot work together, or one is lost; the message is one line."""


class Place(NamedTuple):
    """Where a process stands among the others."""

    coordinator: str
    """HOST:PORT that process 0 listens on"""
    processes: int
    process: int


def place(
    environment: Mapping[str, str], *, coordinator: str | None = None, processes: int | None = None,
    process: int | None = None,
) -> Place | str:
    """By what is given, else by NFK_COORDINATOR, NFK_PROCESSES and NFK_PROCESS (or a Kubernetes indexed Job's number);
    with none of them the launcher that JAX is to ask, "slurm" or "ompi". HostsError where neither is whole."""
    address = coordinator or environment.get(COORDINATOR)
    count = processes if processes is not None else _number(environment, PROCESSES)
    index = process if process is not None else _number(environment, PROCESS)
    if index is None and address is not None:
        index = _number(environment, INDEXED_JOB)
    given = {f"--coordinator or {COORDINATOR}": address, f"--processes or {PROCESSES}": count,
             f"--process or {PROCESS}": index}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        for launcher, needed in _DETECTED.items():
            if all(name in environment for name in needed):
                return launcher
    if address is None or count is None or index is None:
        raise HostsError(f"--distributed: {', '.join(missing)} missing; give them, or start the processes by srun, "
                         "mpirun or infra/hosts/job.yaml")
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise HostsError(f"coordinator {address}: must be HOST:PORT, the port 1 to 65535, process 0's own address")
    if not 0 <= index < count:
        raise HostsError(f"process {index} of {count}: must be 0 to {count - 1}, another for each process")
    return Place(address, count, index)


def join(found: Place | str, *, wait_seconds: int = 300) -> Hosts:
    """Meet the other processes. Before anything else is computed by JAX. HostsError after `wait_seconds` without them.

    On a loopback address the coordinator listens there alone; else wherever its port is reached, without a password, as
    the all-reduce does: keep both within a network of your own.
    """
    import jax

    if isinstance(found, str):
        options: dict[str, Any] = {"cluster_detection_method": found}
    else:
        host = found.coordinator.rpartition(":")[0]
        own = host in ("localhost", "[::1]") or host.startswith("127.")
        options = {"coordinator_address": found.coordinator, "num_processes": found.processes,
                   "process_id": found.process, "cluster_detection_method": "deactivate",
                   "coordinator_bind_address": found.coordinator if own else None}
    try:
        jax.distributed.initialize(initialization_timeout=wait_seconds, **options)
    except (RuntimeError, ValueError) as error:
        raise HostsError(f"the processes did not meet: {_first_line(error)}; start all of them, each with its own "
                         "number and the same coordinator") from None
    return Hosts(jax.process_index(), jax.process_count())


@contextmanager
def together() -> Iterator[None]:
    """Work that ends at once, by a word and an exit code, for the process whose fault it is, so that the others hear of
    it: without, it would wait minutes for them to end too."""
    try:
        yield
    except BaseException as fault:
        with suppress(OSError):  # whoever reads it may be gone
            if not isinstance(fault, ValueError | OSError | MemoryError | KeyboardInterrupt):
                traceback.print_exc()
            print(f"nfk: {str(fault) or type(fault).__name__}", file=sys.stderr, flush=True)
        os._exit(130 if isinstance(fault, KeyboardInterrupt) else 2)


@dataclass(frozen=True)
class Hosts:
    """All processes (satisfies `nfk.linalg.group.Group`), as this one sees them."""

    index: int
    size: int

    def total(self, values: np.ndarray) -> np.ndarray:
        """The sum over the processes. Cost: 2 times its bytes through each process's network. Memory: 64 MiB a process
        on the devices, whatever the size. HostsError where a process is lost."""
        import jax

        flat = np.ascontiguousarray(values).reshape(-1)
        result, length = np.empty_like(flat), max(1, _SLAB // flat.itemsize)
        try:
            with jax.enable_x64(flat.dtype.itemsize == 8):
                for start in range(0, len(flat), length):
                    result[start : start + length] = self._sum(flat[start : start + length])
        except (RuntimeError, ValueError) as error:
            raise HostsError(f"process {self.index} of {self.size} has lost another one ({_first_line(error)}); start "
                             "all again by the same command: they go on from their last saved blocks") from None
        return result.reshape(values.shape)

    def agree(self, what: str, digest: str) -> None:
        """HostsError unless `digest` (hexadecimal) is the same for every process."""
        mine = np.array([int(digest[place : place + 6], 16) for place in range(0, 18, 6)], np.int32)
        first = self.total(mine if self.index == 0 else np.zeros_like(mine))
        same = self.total(np.array([np.array_equal(mine, first)], np.int32))
        if same[0] != self.size:
            raise HostsError(f"{self.size - same[0]} of {self.size} processes have another {what} than process 0; give "
                             "all of them the same")

    def _sum(self, part: np.ndarray) -> np.ndarray:
        import jax
        from jax.sharding import NamedSharding, PartitionSpec

        mesh, sum_of_all = self._reduction
        mine = jax.device_put(part[None], mesh.local_devices[0])
        spread = jax.make_array_from_single_device_arrays(
            (self.size, *part.shape), NamedSharding(mesh, PartitionSpec("hosts")), [mine])
        return np.asarray(sum_of_all(spread).addressable_data(0))

    @cached_property
    def _reduction(self) -> tuple[Any, Any]:
        """One device of each process, and the sum over them."""
        import jax
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        devices = {device.process_index: device for device in reversed(jax.devices())}
        mesh = Mesh(np.array([devices[index] for index in range(self.size)]), ("hosts",))
        return mesh, jax.jit(lambda parts: parts.sum(axis=0), out_shardings=NamedSharding(mesh, PartitionSpec()))


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name)
    if text is not None and not text.isdigit():
        raise HostsError(f"{name}={text}: must be a number, 0 or more")
    return None if text is None else int(text)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
