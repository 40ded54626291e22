"""What a kept figure was measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "scipy", "scikit-learn")


def environment() -> dict[str, Any]:
    """Machine, versions and commit; nothing that names a host."""
    import jax

    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, text=True,
                            stdout=subprocess.PIPE, check=False).stdout.strip()
    return {"python": platform.python_version(), "machine": platform.machine(), "processor": _processor(),
            "cores": os.cpu_count(), "device": jax.devices()[0].device_kind, "commit": commit,
            "versions": {name: version(name) for name in PACKAGES}}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
