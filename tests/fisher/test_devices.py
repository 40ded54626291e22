"""The devices of one process share each block: what they give together is what one gives."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

_FACTORS = """
import sys
import jax, jax.numpy as jnp, numpy as np
from nfk import NeuralFisherKernel

def density(params, x, key):
    return jnp.sum(jnp.tanh(x.reshape(-1) @ params["a"]) @ params["b"])

assert jax.local_device_count() == int(sys.argv[1])
a, b, c = jax.random.split(jax.random.key(0), 3)
params = {"a": jax.random.normal(a, (20, 12)), "b": jax.random.normal(b, (12, 3))}
mixing = np.random.default_rng(0).standard_normal((20, 20)) * 0.6 ** np.arange(20)[:, None]
images = np.asarray(np.asarray(jax.random.normal(c, (83, 20))) @ mixing, np.float32)
made = []
for run in range(2):  # the last block is of 3 examples
    kernel = NeuralFisherKernel(density, params, rank=6, strategy="stream", block=16, key=a).fit(images)
    made.append([kernel.singular_values_, np.asarray(kernel.right_), kernel.transform(images[:21])])
assert all(np.array_equal(first, second) for first, second in zip(*made))
scores = kernel._compiled[1]
assert len(scores(images[:16]).sharding.device_set) == int(sys.argv[1])
np.savez(sys.argv[2], *made[0])
"""


def factors(devices: int, folder) -> list[np.ndarray]:
    path = folder / f"{devices}.npz"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    done = subprocess.run([sys.executable, "-c", _FACTORS, str(devices), str(path)], text=True, timeout=300,
                          env=os.environ | {"XLA_FLAGS": flags}, capture_output=True)
    assert done.returncode == 0, done.stderr
    with np.load(path) as kept:
        return [kept[name] for name in kept.files]


@pytest.mark.slow
def test_1_2_4_and_8_devices_agree_and_repeat_to_the_bit(tmp_path):
    values, right, embedded = factors(1, tmp_path)
    assert np.min(values[:-1] / values[1:]) > 1.005, "modes are not separated"
    for devices in (2, 4, 8):
        others = factors(devices, tmp_path)
        np.testing.assert_allclose(others[0], values, rtol=1e-5)
        outside = others[1].astype(float) - right.astype(float) @ (right.T.astype(float) @ others[1].astype(float))
        assert np.linalg.norm(outside, 2) < 1e-3
        np.testing.assert_allclose(others[2], embedded, atol=1e-3 * np.abs(embedded).max())
