"""Weights trained by PyTorch: the logits are those of its own forward pass, written here channels first.
tests/models/test_torch_file.py has what the file may hold."""

import hashlib

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from jax import lax

from nfk.family_params import Lenet5Params, MlpParams, TorchParams, WideResnetParams
from nfk.models import checkpoint
from nfk.models.families import initial
from nfk.models.torch_weights import TorchWeightsError
from nfk.params import ParamsError, parse
from tests.models.small_networks import key

CLASSES = 4
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def conv(x, weights, name, stride=1, padding=0):
    y = lax.conv_general_dilated(x, weights[f"{name}.weight"], (stride, stride), [(padding, padding)] * 2,
                                 dimension_numbers=("NCHW", "OIHW", "NCHW"))
    return y + weights[f"{name}.bias"][None, :, None, None] if f"{name}.bias" in weights else y


def linear(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"][None]


def norm_relu(x, weights, name):
    scale, shift, mean, var = (weights[f"{name}.{part}"][None, :, None, None]
                               for part in ("weight", "bias", "running_mean", "running_var"))
    return jnp.maximum((x - mean) / jnp.sqrt(var + 1e-5) * scale + shift, 0)


def pool(x):
    return x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2).max(axis=(3, 5))


def lenet5(x, weights):
    x = pool(jnp.maximum(conv(x, weights, "conv1", padding=2), 0))
    x = pool(jnp.maximum(conv(x, weights, "conv2"), 0)).reshape(len(x), -1)
    return linear(jnp.maximum(linear(jnp.maximum(linear(x, weights, "fc1"), 0), weights, "fc2"), 0), weights, "fc3")


def mlp(x, weights):
    x = x.reshape(len(x), -1)
    return linear(jnp.maximum(linear(jnp.maximum(linear(x, weights, "fc1"), 0), weights, "fc2"), 0), weights, "fc3")


def wide_resnet(x, weights):
    x = conv(x, weights, "conv1", padding=1)
    for block, stride in (("block1.layer.0", 1), ("block2.layer.0", 2), ("block3.layer.0", 2)):
        inside = norm_relu(x, weights, f"{block}.bn1")
        skip = conv(inside, weights, f"{block}.convShortcut", stride) if stride == 2 else x
        inside = norm_relu(conv(inside, weights, f"{block}.conv1", stride, 1), weights, f"{block}.bn2")
        x = skip + conv(inside, weights, f"{block}.conv2", padding=1)
    return linear(norm_relu(x, weights, "bn1").mean(axis=(2, 3)), weights, "fc")


def lenet5_shapes():
    # 16x16 images: 16 channels of 2x2 are flattened
    return {"conv1": (6, 3, 5, 5), "conv2": (16, 6, 5, 5), "fc1": (120, 64), "fc2": (84, 120), "fc3": (CLASSES, 84)}


def mlp_shapes():
    return {"fc1": (8, 16 * 16 * 3), "fc2": (8, 8), "fc3": (CLASSES, 8)}


def wide_resnet_shapes():
    shapes = {"conv1": (16, 3, 3, 3), "fc": (CLASSES, 64), "bn1": (64,)}
    for block, (before, after) in enumerate(((16, 16), (16, 32), (32, 64)), start=1):
        name = f"block{block}.layer.0"
        shapes |= {f"{name}.bn1": (before,), f"{name}.conv1": (after, before, 3, 3),
                   f"{name}.bn2": (after,), f"{name}.conv2": (after, after, 3, 3)}
        if block > 1:
            shapes[f"{name}.convShortcut"] = (after, before, 1, 1)
    return shapes


def arrays(shapes):
    """Random weights under PyTorch's names: biases where PyTorch has them, four arrays for a norm."""
    random = np.random.default_rng(0)
    named = {}
    for name, shape in shapes.items():
        named[f"{name}.weight"] = random.normal(0, np.prod(shape[1:]) ** -0.5, shape)
        if len(shape) == 1:
            named |= {f"{name}.weight": random.uniform(0.5, 2, shape), f"{name}.bias": random.normal(0, 1, shape),
                      f"{name}.running_mean": random.normal(0, 1, shape),
                      f"{name}.running_var": random.uniform(0.5, 2, shape),
                      f"{name}.num_batches_tracked": np.asarray(7)}
        elif len(shape) == 2 or ("conv1" in shapes and "fc1" in shapes):
            named[f"{name}.bias"] = random.normal(0, 1, shape[:1])
    return {name: array if array.dtype == np.int64 else array.astype(np.float32) for name, array in named.items()}


NETWORKS = {
    "lenet5": (Lenet5Params, {}, lenet5, lenet5_shapes()),
    "mlp": (MlpParams, {"hidden": 8}, mlp, mlp_shapes()),
    "wide_resnet": (WideResnetParams, {"depth": 10}, wide_resnet, wide_resnet_shapes()),
}


def written(folder, named, **settings):
    content = safetensors.numpy.save(named)
    (folder / "net.safetensors").write_bytes(content)
    return TorchParams(path=str(folder / "net.safetensors"), sha256=hashlib.sha256(content).hexdigest(), **settings)


def taken(kind, folder, named, **settings):
    params, sizes, _, _ = NETWORKS[kind]
    config = params(torch=written(folder, named, **settings), batch=2, **sizes)
    untrained = initial(config, (16, 16, 3), CLASSES, key(0))
    images, labels = IMAGES, np.arange(len(IMAGES), dtype=np.int32) % CLASSES
    return untrained.train(images, labels, (images, labels), key(1))


IMAGES = np.random.default_rng(1).integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)
UNIT = IMAGES.astype(np.float32) / 255


@pytest.mark.parametrize("kind", NETWORKS)
def test_logits_are_those_of_pytorchs_forward_pass(kind, tmp_path):
    named = arrays(NETWORKS[kind][3])
    expected = NETWORKS[kind][2](jnp.asarray(((UNIT - MEAN) / STD).astype(np.float32).transpose(0, 3, 1, 2)), named)
    model = taken(kind, tmp_path, named, mean=MEAN, std=STD).model
    assert np.allclose(model.activations(jnp.asarray(UNIT))["logits"], expected, rtol=2e-4, atol=2e-4)
    scores = [float(model.log_density(model.params, jnp.asarray(image), key(0))) for image in UNIT[:2]]
    assert np.allclose(scores, np.log(np.exp(np.asarray(expected[:2], np.float64)).sum(axis=1)), rtol=1e-4)


def test_its_accuracy_is_judged_and_it_is_kept_like_any_other(tmp_path):
    trained = taken("mlp", tmp_path, arrays(mlp_shapes()), mean=MEAN, std=STD)
    logits = np.asarray(trained.model.activations(jnp.asarray(UNIT))["logits"])
    assert trained.metrics["validation_accuracy"] == np.mean(logits.argmax(axis=1) == np.arange(8) % CLASSES)
    assert [check.name for check in trained.checks] == ["validation accuracy above the commonest class"]
    checkpoint.save(trained, tmp_path / "kept")
    (tmp_path / "net.safetensors").unlink()
    again = checkpoint.load(tmp_path / "kept").activations(jnp.asarray(UNIT))["logits"]
    assert np.array_equal(again, logits)


def test_names_of_ones_own_and_the_prefix_of_data_parallel(tmp_path):
    named = arrays(mlp_shapes())
    usual = taken("mlp", tmp_path, named).model.params
    renamed = {"module." + name.replace("fc1", "body.0"): array for name, array in named.items()}
    own = taken("mlp", tmp_path, renamed, modules={"dense_0": "body.0"}).model.params
    assert all(np.array_equal(usual[layer][leaf], own[layer][leaf]) for layer in usual for leaf in usual[layer])


def test_another_file_is_refused(tmp_path):
    source = written(tmp_path, arrays(mlp_shapes()))
    for content, message in ((b"other", "torch.sha256 says"), (None, "No such file")):
        path = tmp_path / "net.safetensors"
        path.write_bytes(content) if content else path.unlink()
        config = MlpParams(hidden=8, batch=2, torch=source)
        with pytest.raises(TorchWeightsError, match=message):
            initial(config, (16, 16, 3), CLASSES, key(0)).train(
                IMAGES, np.zeros(8, np.int32), (IMAGES, np.zeros(8, np.int32)), key(1))


def test_a_mean_without_a_spread_is_refused():
    with pytest.raises(ParamsError, match="mean has 1 channels, std 0; give both, or neither"):
        parse({"families": {"f": {"model": "mlp", "torch": {"path": "x", "sha256": "0" * 64, "mean": [0.5]}}}})
