"""Tall matrices spread over the devices of a process: their laws, and what XLA makes of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from nfk.linalg import spread


@pytest.mark.slow
def test_on_eight_devices_the_factors_are_the_same_and_nothing_tall_is_gathered(tmp_path):
    flags = (f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 --xla_dump_to={tmp_path} "
             "--xla_dump_hlo_as_text")
    done = subprocess.run([sys.executable, "-m", "tests.linalg.on_eight_devices"], text=True, timeout=900,
                          env=os.environ | {"XLA_FLAGS": flags, "JAX_ENABLE_COMPILATION_CACHE": "false"},
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    programs = {file.name: file.read_text() for file in tmp_path.glob("*after_optimizations.txt")}
    relaid = [name for name, text in programs.items() if " all-to-all(" in text]
    assert any("accumulate" in name for name in relaid)
    assert any("adjoint" in name for name in relaid)
    gathered = [name for name, text in programs.items() if re.search(r"\[50[04],\d+\]\S* all-gather", text)]
    assert not gathered, gathered


def test_with_one_device_nothing_is_spread():
    assert jax.local_device_count() == 1
    tall = np.ones((7, 2), np.float32)
    laid = spread.laid(tall)
    assert spread.parts(laid) == [laid]
    assert spread.factor(laid, 7) is laid
    assert spread.along(laid) is laid
    assert np.array_equal(spread.whole(laid, 7), tall)
