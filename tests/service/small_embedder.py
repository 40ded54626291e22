"""An embedder of an untrained network, in a folder as the registry holds it, and a service of it in a process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from nfk import embedder, store
from nfk.family_params import AnyFamily, MlpParams
from nfk.fisher.kronecker import sides_sum
from nfk.fisher.parameters import parameter_count, parameter_index
from nfk.models import checkpoint
from nfk.models.families import initial
from nfk.stages import network

READY = re.compile(r"nfk serve: \S+ \(.*\), digest \w{12}, ready on (http://\S+)\n")


def write(
    folder: Path, *, config: AnyFamily | None = None, shape: tuple[int, int, int] = (12, 12, 1),
    rank: int = 4, scaling: str = "none", kronecker: bool = False,
) -> Path:
    """An embedder of random orthonormal directions: its numbers mean nothing, and cost what any embedder's cost.
    Element-wise, as older ones; or `kronecker`, as the pipeline's default."""
    model = initial(config or MlpParams(hidden=6), shape, 10, jax.random.key(0))
    card = checkpoint.save(model, folder / "network")
    random, size = np.random.default_rng(0), parameter_count(model.params)
    right = np.linalg.qr(random.normal(size=(size, rank)))[0].astype(np.float32)
    inputs = {"data": "0" * 64, "model": network.digest(card)}
    with store.write(folder / "statistics.zarr", inputs=inputs) as writer:
        writer.put("mean_score", np.zeros(size))
        writer.put("diagonal", random.uniform(0.5, 1.5, size))
        if kronecker:
            index = parameter_index(model.params)
            writer.put("sides", sides_sum(random.normal(size=(50, size)).astype(np.float32), index))
    statistics = store.read(folder / "statistics.zarr")
    with store.write(folder / "factors.zarr", inputs={**inputs, "statistics": statistics.digest}) as writer:
        writer.put("right", right)
        writer.put("singular_values", np.linspace(2, 1, rank))
        writer.attributes.update(damping=1e-3, examples=100, **({"unit_rows": True} if kronecker else {}))
    factors = store.read(folder / "factors.zarr")
    made = folder / "small-embedder"
    embedder.write(made, model=folder / "network", statistics=statistics, factors=factors, scaling=scaling,
                   theta={"include": None, "exclude": ()},
                   inputs={**inputs, "statistics": statistics.digest, "factors": factors.digest})
    return made


class Running(NamedTuple):
    address: str
    process: subprocess.Popen[str]

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


@contextmanager
def running(folder: Path, *arguments: str, log: Path, **environment: str) -> Iterator[Running]:
    """`nfk serve FOLDER` on a free port, from its line that it is ready on; ended by SIGTERM."""
    root = Path(__file__).parents[2]
    given = {key: value for key, value in os.environ.items() if key not in ("NFK_PROGRESS", "NFK_SERVE_TOKEN")}
    given |= {"PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"} | environment
    with log.open("w") as errors, subprocess.Popen(
            [sys.executable, "-m", "nfk", "serve", str(folder), "--port", "0", *arguments], cwd=folder.parent,
            env=given, text=True, stdout=subprocess.PIPE, stderr=errors, start_new_session=True) as process:
        try:
            line = process.stdout.readline()
            found = READY.fullmatch(line)
            assert found, f"{line!r}: {log.read_text()[-2000:]}"
            yield Running(found.group(1), process)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
