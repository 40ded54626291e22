"""Where everything of a workspace lies, and the scratch that outlives a crash."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nfk import durable
from nfk.hosts import Hosts
from nfk.linalg.group import Group
from nfk.params import Params
from nfk.store import Scratch, file_digest, json_digest

PRIVATE = Path(".nfk")


def data_store(params: Params) -> Path:
    return Path("data") / f"{params.data.name}.zarr"


def model_folder(family: str) -> Path:
    return Path("models") / family


def statistics_store(family: str) -> Path:
    return Path("statistics") / f"{family}.zarr"


def factors_store(family: str) -> Path:
    return Path("factors") / f"{family}.zarr"


def spectrum_figure(family: str) -> Path:
    return Path("factors") / f"{family}.png"


def embeddings_store(family: str) -> Path:
    return Path("embeddings") / f"{family}.zarr"


def evaluation_folder(family: str) -> Path:
    return Path("evaluation") / family


def study_folder(name: str) -> Path:
    return Path("studies") / name


def atlas_page(family: str) -> Path:
    return Path("atlas") / f"{family}.html"


BASELINES = Path("evaluation") / "pixels.json"
REPORT = Path("report") / "index.html"
LOCKS = PRIVATE / "locks"
LAST_RUNS = PRIVATE / "last"
"""What each stage last took here: times are no part of what DVC versions, since they never repeat."""


def scratch(stage: str, family: str, depends_on: dict[str, Any], group: Group | None = None) -> Scratch:
    """The scratch of this work, named by a fingerprint of the code and all it depends on; of a group, each process's.

    Scratch of the same stage and family with another fingerprint is of no more use: it goes. HostsError where a
    process of the group has another fingerprint.
    """
    fingerprint = json_digest({"code": _code_digest(), "versions": _versions(), **depends_on})[:20]
    folder = PRIVATE / "scratch" / f"{stage}-{family}-{fingerprint}"
    if isinstance(group, Hosts):
        group.agree("code, version, device or input", fingerprint)
    if group is None or group.index == 0:
        for other in folder.parent.glob(f"{stage}-{family}-{'?' * 20}"):
            if other != folder:
                durable.remove_tree(other)
    if group is not None and group.size > 1:
        return Scratch(folder / f"process-{group.index}-of-{group.size}", interval=SAVE_SECONDS, within=folder)
    return Scratch(folder, interval=SAVE_SECONDS)


SAVE_SECONDS = float(os.environ.get("NFK_SAVE_SECONDS", "20"))
"""The most work a crash in the middle of a pass can cost, give or take a block."""


def stages_since(started: float) -> list[str]:
    """The stages that ended here since `started` (seconds since the epoch)."""
    return sorted(file.stem for file in LAST_RUNS.glob("*.json") if file.stat().st_mtime >= started)


def _code_digest() -> str:
    package = Path(__file__).parents[1]
    return json_digest({str(file.relative_to(package)): file_digest(file)
                        for file in sorted(package.rglob("*.py"))})


def _versions() -> dict[str, str]:
    import jax
    import numpy as np

    device = jax.devices()[0]
    return {"jax": jax.__version__, "numpy": np.__version__,
            "device": f"{device.platform} {device.device_kind} x {jax.device_count()}"}
