"""The devices of this process as one mesh of one axis, along which blocks are cut by examples, and tall matrices by
parameters (`nfk.linalg.spread`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

DEVICES = "devices"


def take(count: int) -> None:
    """Make this process one of so many devices, before JAX has started: the first GPUs, or parts of a CPU, which share
    its cores. ValueError where the machine has not so many, or JAX has started."""
    try:
        jax.config.update("jax_num_cpu_devices", count)
        jax.config.update("jax_cuda_visible_devices", ",".join(map(str, range(count))))
    except RuntimeError as error:
        raise ValueError(f"devices={count}: JAX has started; choose its devices first") from error
    if (found := jax.local_device_count()) != count:
        raise ValueError(f"devices={count}: this machine has {found}; ask for no more")


def local_mesh() -> Mesh | None:
    """All devices of this process; None where there is one, which needs no mesh."""
    devices = jax.local_devices()
    return Mesh(devices, (DEVICES,)) if len(devices) > 1 else None


def everywhere(mesh: Mesh | None, tree: Any) -> Any:
    """Arrays that every device holds whole; as they are without a mesh."""
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def by_examples(mesh: Mesh | None, work: Callable[..., Any], examples: int, arguments: int) -> Callable[..., Any]:
    """`work`, compiled: of its so many arguments number `examples` is cut by rows, a part for each device, and so are
    its results; every device has the others whole. Each does with its part what one device does with a block."""
    if mesh is None:
        return jax.jit(work)
    given = tuple(PartitionSpec(DEVICES) if place == examples else PartitionSpec() for place in range(arguments))
    return jax.jit(jax.shard_map(work, mesh=mesh, in_specs=given, out_specs=PartitionSpec(DEVICES), check_vma=False))
