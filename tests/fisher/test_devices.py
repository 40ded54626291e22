"""The devices of one process share each block and the basis: what they give together is what one gives."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

_FACTORS = """
import sys
from collections import Counter
import jax, jax.numpy as jnp, numpy as np
from nfk import NeuralFisherKernel
from nfk.linalg.spread import SpreadFactor, rows_for

devices, p = int(sys.argv[1]), 20 * 12 + 12 * 3
held = []

def measure(done, total, what):  # in the third pass the basis has three blocks, and Z makes four
    if what.startswith("pass 3") and done == total:
        tall = [array for array in jax.live_arrays() if array.ndim == 2 and array.shape[0] in (p, rows_for(p))]
        each = Counter()
        for array in tall:
            each.update({shard.device: shard.data.nbytes for shard in array.addressable_shards})
        held.append((max(each.values()), sum(array.nbytes for array in tall)))

def density(params, x, key):
    return jnp.sum(jnp.tanh(x.reshape(-1) @ params["a"]) @ params["b"])

assert jax.local_device_count() == devices
a, b, c = jax.random.split(jax.random.key(0), 3)
params = {"a": jax.random.normal(a, (20, 12)), "b": jax.random.normal(b, (12, 3))}
mixing = np.random.default_rng(0).standard_normal((20, 20)) * 0.6 ** np.arange(20)[:, None]
images = np.asarray(np.asarray(jax.random.normal(c, (83, 20))) @ mixing, np.float32)
made = []
for run in range(2):  # the last block is of 3 examples
    kernel = NeuralFisherKernel(density, params, rank=6, strategy="stream", block=16, key=a,
                                progress=measure).fit(images)
    made.append([kernel.singular_values_, np.asarray(kernel.right_), kernel.transform(images[:21])])
assert all(np.array_equal(first, second) for first, second in zip(*made))
scores = kernel._compiled[1]
assert len(scores(images[:16]).sharding.device_set) == devices
most, together = held[0]  # later the first estimator's W is there too
assert together >= 4 * p * (6 + 16) * 4 and most == together / devices, held
if devices == 8:  # 12,000 bytes hold a device's part of the basis, and W not twice: it stays where it is, read by parts
    small = NeuralFisherKernel(density, params, rank=6, oversampling=0, passes=6, strategy="stream", block=1, key=a,
                               memory_gib=12_000 / 2**30).fit(images)
    assert isinstance(small.right_, SpreadFactor)
    small.save(sys.argv[2] + ".zarr")
    embedded = NeuralFisherKernel.load(sys.argv[2] + ".zarr", density, params).transform(images[:21])
    assert np.abs(embedded - small.transform(images[:21])).max() < 1e-5 * np.abs(embedded).max()
whole = NeuralFisherKernel(density, params, rank=6, strategy="stream", block=16, key=a, whitening="kronecker",
                           unit_rows=True, damping=0.1).fit(images)
made[0].append(whole.transform(images[:21]) @ whole.transform(images[:21]).T)
np.savez(sys.argv[2], *made[0])
"""


def factors(devices: int, folder) -> list[np.ndarray]:
    path = folder / f"{devices}.npz"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    done = subprocess.run([sys.executable, "-c", _FACTORS, str(devices), str(path)], text=True, timeout=900,
                          env=os.environ | {"XLA_FLAGS": flags}, capture_output=True)
    assert done.returncode == 0, done.stderr
    with np.load(path) as kept:
        return [kept[name] for name in kept.files]


@pytest.mark.slow
def test_1_2_4_and_8_devices_agree_and_repeat_to_the_bit(tmp_path):
    values, right, embedded, inner_products = factors(1, tmp_path)
    assert np.min(values[:-1] / values[1:]) > 1.005, "modes are not separated"
    for devices in (2, 4, 8):
        others = factors(devices, tmp_path)
        np.testing.assert_allclose(others[0], values, rtol=1e-5)
        outside = others[1].astype(float) - right.astype(float) @ (right.T.astype(float) @ others[1].astype(float))
        assert np.linalg.norm(outside, 2) < 1e-3
        np.testing.assert_allclose(others[2], embedded, atol=1e-3 * np.abs(embedded).max())
        np.testing.assert_allclose(others[3], inner_products, atol=1e-3)  # of rows whitened as a whole, of unit length
