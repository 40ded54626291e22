"""20 s of fuzz a reader: `make fuzz`, in three files, so that workers share them. infra/README.md has ten minutes."""

from __future__ import annotations

import pytest

from tests.faults import fuzz

SECONDS = 20.0
ARRAYS = ("idx", "idx-gzip", "cifar-binary", "cifar-python", "matlab", "npz", "npz-bytes", "parquet")
ARCHIVES = ("zip", "zip-bytes", "tar", "tar-bytes", "tar-gzip", "image", "png")
OURS = ("store", "store-sealed", "network", "network-sealed", "torch", "params", "request", "index")


def check(name: str) -> None:
    """The reader does nothing but read or refuse."""
    pytest.importorskip("atheris", reason="no wheel of the engine for this system or Python")
    row = fuzz.fuzz(name, SECONDS, seed=7)
    assert row["findings"] == []
    assert row["read"] > 0 and row["refused"] > 0
    assert row["lines"] > 10
