"""PyTorch's weights as a file from outside: every array in its place and order, or one line; no network is made."""

from __future__ import annotations

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from nfk.family_params import TorchParams
from nfk.models.torch_weights import TorchLayout, TorchWeightsError, from_torch

LAYOUT = TorchLayout({"conv": "features.0", "norm": "bn"}, {"dense": 2})
SHAPES = {"params": {"conv": {"kernel": (3, 2, 1, 2), "bias": (2,)}, "norm": {"scale": (2,), "bias": (2,)},
                     "dense": {"kernel": (8, 5), "bias": (5,)}, "last": {"kernel": (5, 3)}},
          "batch_stats": {"norm": {"mean": (2,), "var": (2,)}}}
EXPECTED = jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), SHAPES,
                        is_leaf=lambda node: isinstance(node, tuple))


def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = {"features.0.weight": (2, 1, 3, 2), "features.0.bias": (2,), "bn.weight": (2,), "bn.bias": (2,),
              "bn.running_mean": (2,), "bn.running_var": (2,), "dense.weight": (5, 8), "dense.bias": (5,),
              "last.weight": (3, 5)}
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def taken(folder, content, *, channels=1, layout=LAYOUT, **settings):
    body = content if isinstance(content, bytes) else safetensors.numpy.save(content)
    (folder / "net.safetensors").write_bytes(body)
    source = TorchParams(path=str(folder / "net.safetensors"), sha256=hashlib.sha256(body).hexdigest(), **settings)
    return from_torch(EXPECTED, layout, source, channels)


def refused(folder, content, message, **settings):
    with pytest.raises(TorchWeightsError, match=message) as refusal:
        taken(folder, content, **settings)
    assert str(refusal.value).isprintable()


def test_every_array_is_in_our_order(tmp_path):
    named = arrays()
    found = taken(tmp_path, named)
    conv, norm, dense = (found["params"][name] for name in ("conv", "norm", "dense"))
    for row in range(3):
        for column in range(2):
            np.testing.assert_array_equal(conv["kernel"][row, column, 0], named["features.0.weight"][:, 0, row, column])
    for channel in range(2):  # flattened as (c, h w) there, as (h w, c) here
        for pixel in range(4):
            np.testing.assert_array_equal(dense["kernel"][pixel * 2 + channel],
                                          named["dense.weight"][:, channel * 4 + pixel])
    np.testing.assert_array_equal(found["params"]["last"]["kernel"], named["last.weight"].T)
    np.testing.assert_array_equal(norm["scale"], named["bn.weight"])
    np.testing.assert_array_equal(found["batch_stats"]["norm"]["var"], named["bn.running_var"])


def test_counts_of_batches_and_the_prefix_of_data_parallel_are_passed_over(tmp_path):
    named = {f"module.{name}": array for name, array in arrays().items()}
    found = taken(tmp_path, named | {"module.bn.num_batches_tracked": np.asarray(7)})
    jax.tree.map(np.testing.assert_array_equal, found, taken(tmp_path, arrays()))


def test_a_prefix_that_not_all_have_is_a_name(tmp_path):
    named = arrays()
    named["module.last.weight"] = named.pop("last.weight")
    refused(tmp_path, named, r"no array last\.weight")
    found = taken(tmp_path, named, modules={"last": "module.last"})
    np.testing.assert_array_equal(found["params"]["last"]["kernel"], named["module.last.weight"].T)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64])
def test_other_floats_become_float32(tmp_path, dtype):
    named = {name: np.asarray(array, dtype) for name, array in arrays().items()}
    kernel = taken(tmp_path, named)["params"]["last"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, named["last.weight"].T.astype(np.float32))


@pytest.mark.parametrize("change, message", [
    (lambda named: named.pop("dense.bias"), r"no array dense\.bias.*name PyTorch's module for dense in torch\.modules"),
    (lambda named: named.update(extra=np.zeros(2, np.float32)), "1 arrays have no place .* the first extra"),
    (lambda named: named.update({"last.weight": np.zeros((3, 6), np.float32)}),
     r"last\.weight has shape \(3, 6\), which becomes \(6, 3\); last takes \(5, 3\)"),
    (lambda named: named.update({"last.weight": np.zeros(5, np.float32)}),
     r"last\.weight has shape \(5,\), which becomes \(5,\); last takes \(5, 3\)"),
    (lambda named: named.update({"dense.weight": np.zeros((5, 7), np.float32)}),  # no multiple of the map's channels
     r"dense\.weight has shape \(5, 7\), which becomes \(7, 5\); dense takes \(8, 5\)"),
    (lambda named: named.update({"bn.bias": np.full(2, np.nan, np.float32)}), r"bn\.bias holds values .* not finite"),
    (lambda named: named.update({"bn.bias": np.full(2, np.inf, np.float16)}), r"bn\.bias holds values .* not finite"),
    (lambda named: named.update({"bn.bias": np.zeros(2, np.int32)}), r"bn\.bias is of I32, not floats \(F16, BF16"),
    (lambda named: named.clear(), r"no array "),
])
def test_other_arrays_are_refused_by_name(tmp_path, change, message):
    named = arrays()
    change(named)
    refused(tmp_path, named, message)


@pytest.mark.parametrize("content", [b"", b"PK a pickle", b"\xff" * 64])
def test_what_is_no_safetensors_is_refused(tmp_path, content):
    refused(tmp_path, content, r"not safetensors .*save_file")


def test_another_file_or_none_is_refused(tmp_path):
    source = TorchParams(path=str(tmp_path / "net.safetensors"), sha256="0" * 64)
    with pytest.raises(TorchWeightsError, match=r"No such file or directory; torch\.path is taken from the project's"):
        from_torch(EXPECTED, LAYOUT, source, 1)
    (tmp_path / "net.safetensors").write_bytes(b"other")
    with pytest.raises(TorchWeightsError, match=r"SHA-256 is [0-9a-f]{64}, torch\.sha256 says 0{64}; correct either"):
        from_torch(EXPECTED, LAYOUT, source, 1)


def test_a_mean_for_other_images_is_refused(tmp_path):
    refused(tmp_path, arrays(), "have 1 channels, the images 3", channels=3, mean=(0.5,), std=(0.5,))
    taken(tmp_path, arrays(), channels=1, mean=(0.5,), std=(0.5,))
