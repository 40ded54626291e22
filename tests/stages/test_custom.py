"""A user's own module through the stages; its vectors are the estimator's, and what is wrong with it is one line."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nfk import NeuralFisherKernel, store
from nfk.models.checkpoint import ModelError, load
from nfk.models.custom import CustomError
from nfk.params import ParamsError
from nfk.stages import images, network, register
from nfk.stages.workspace import model_folder

SOURCE = """
from dataclasses import dataclass, replace
import jax, jax.numpy as jnp, numpy as np
from nfk.training import Trained

@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Weights:
    hidden: list
    out: jax.Array

class Net:
    def __init__(self, params):
        self.params = params

    def log_density(self, params, x, key):
        h = x.reshape(-1).astype(params.out.dtype)
        for kernel in params.hidden:
            h = jnp.tanh(h @ kernel)
        return jax.nn.logsumexp(h @ params.out)

class Trainable(Net):
    def with_params(self, params):
        return Trainable(params)

    def train(self, images, labels, validation, key, progress=None, checkpoint=None):
        trained = Trainable(replace(self.params, out=self.params.out + 1 + images.mean().astype(np.float32) / 255))
        return Trained(trained, {"loss": [2.0, 1.0]}, {"loss": 1.0}, [])

    def sample(self, key, count):
        return jax.random.uniform(key, (count, 12, 12, 1)) * jax.nn.sigmoid(self.params.out[0, 0])

def weights(options, shape):
    rng, width = np.random.default_rng(options.get("seed", 0)), options["width"]
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0]), jnp.float32)
    return Weights([draw(int(np.prod(shape)), width), draw(width, width)], draw(width, 3))

def build(options, image_shape, classes):
    return Net(weights(options, image_shape))

def trainable(options, image_shape, classes):
    return Trainable(weights(options, image_shape))

calls = []

def drifting(options, image_shape, classes):
    calls.append(1)
    return Net(weights({"width": 4, "seed": len(calls)}, image_shape))

def nothing(options, image_shape, classes):
    return {"params": 1}

def scalar(options, image_shape, classes):
    return Net({"scale": 2.0})

class Vector(Net):
    def log_density(self, params, x, key):
        return x.reshape(-1) * params["scale"][0]

class Wide(Net):
    def sample(self, key, count):
        return jnp.full((count, 12, 12, 1), 2.0)

class Flat(Net):
    def sample(self, key, count):
        return jnp.zeros((count, 12, 12))

def vector(options, image_shape, classes):
    return Vector({"scale": np.ones(2, np.float32)})

def wide(options, image_shape, classes):
    return Wide(weights({"width": 4}, image_shape))

def flat(options, image_shape, classes):
    return Flat(weights({"width": 4}, image_shape))

class Failing(Trainable):
    def train(self, *arguments, **options):
        return arguments[0].nothing

class Infinite(Trainable):
    def train(self, *arguments, **options):
        return Trained(self, {"loss": [np.float32(1)]}, {"loss": jnp.float32("nan")}, [])

class Measured(Trainable):
    def train(self, *arguments, **options):
        return Trained(self, {"loss": [np.float32(1)]}, {"loss": jnp.float32(1)}, [])

def failing_train(options, image_shape, classes):
    return Failing(weights({"width": 4}, image_shape))

def infinite(options, image_shape, classes):
    return Infinite(weights({"width": 4}, image_shape))

def measured(options, image_shape, classes):
    return Measured(weights({"width": 4}, image_shape))

def double(options, image_shape, classes):
    return Net({"scale": np.ones(2)})

def shipped(options, image_shape, classes):
    from nfk.models.families import initial
    from nfk.family_params import MlpParams
    return initial(MlpParams(hidden=4), image_shape, classes, jax.random.key(0))

def failing(options, image_shape, classes):
    return options["depth"]

number = 3
"""


@pytest.fixture
def module(workspace, tmp_path, monkeypatch):
    """A module of a name of its own in the current folder, forgotten afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_nets").mkdir()
    (tmp_path / "my_nets/__init__.py").write_text("")
    (tmp_path / "my_nets/dense.py").write_text(SOURCE)
    (tmp_path / "my_nets/broken.py").write_text("import no_such_package\n")
    importlib.invalidate_caches()
    yield tmp_path / "my_nets/dense.py"
    for name in [name for name in sys.modules if name.split(".")[0] == "my_nets"]:
        del sys.modules[name]


def settings(workspace, function, **options):
    return workspace.params({"mine": {"model": f"my_nets.dense:{function}", "options": {"width": 4, **options}}})


@pytest.mark.parametrize("function", ["build", "trainable"])
def test_vectors_are_the_estimators(workspace, module, function):
    chosen = settings(workspace, function)
    workspace.run(chosen, "mine", "pretrain", "statistics", "svd", "embed")
    data, net = images.load(chosen), importlib.import_module("my_nets.dense")
    built, samples = net.build({"width": 4}, (12, 12, 1), 2), data.examples("train", 32)
    if function == "trainable":
        built = net.trainable({"width": 4}, (12, 12, 1), 2).train(data.pixels("train"), None, None, None).model
        samples = load(model_folder("mine"), chosen.code).sample(network.key(chosen, "samples"), 32)
    kernel = NeuralFisherKernel(built.log_density, built.params, rank=4, strategy="explicit", whitening="kronecker",
                                unit_rows=True, damping=0.1).fit(data.examples("train"), model_samples=samples)
    found = store.read("embeddings/mine.zarr")
    assert found["test"][:] == pytest.approx(kernel.transform(data.examples("test")), rel=1e-4, abs=1e-4)
    named = [entry["path"] for entry in store.read("statistics/mine.zarr").attributes["parameters"]]
    assert named == ["hidden/0", "hidden/1", "out"]


def test_changed_code_is_refused_until_pretrained_again(workspace, module):
    chosen = settings(workspace, "build")
    workspace.run(chosen, "mine", "pretrain", "statistics")
    module.write_text(SOURCE + "\n# another thought\n")
    with pytest.raises(ModelError, match=r"models/mine: the file of my_nets.dense:build is not the one") as refused:
        workspace.run(chosen, "mine", "svd")
    assert "\n" not in str(refused.value)
    workspace.run(chosen, "mine", "pretrain")
    with pytest.raises(store.StoreError, match=r"statistics/mine.zarr was made from model"):
        workspace.run(chosen, "mine", "svd")


def test_weights_that_are_others_at_each_call_are_refused(workspace, module):
    chosen = settings(workspace, "drifting")
    workspace.run(chosen, "mine", "pretrain")
    with pytest.raises(CustomError, match=r"my_nets.dense:drifting gives other weights than those kept"):
        workspace.run(chosen, "mine", "statistics")


def test_a_registered_embedder_brings_its_module_along(workspace, module, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    address = f"sqlite:///{tmp_path}/mlflow.db"
    chosen = workspace.params({"mine": {"model": "my_nets.dense:build", "options": {"width": 4}}},
                              tracking={"uri": address})
    workspace.run(chosen, "mine", "pretrain", "statistics", "svd", "embed")
    judged = {"explained_variance": {"4": 0.25},
              "features": {"nfk-4": {"logistic": {"accuracy": 0.5, "validation_accuracy": 0.5}}}}
    (tmp_path / "evaluation/mine").mkdir(parents=True)
    (tmp_path / "evaluation/mine/metrics.json").write_text(json.dumps(judged))
    embedder, _ = register.run(chosen, "mine")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "images").mkdir(parents=True)
    pixels, expected = store.read("data/digits.zarr")["images"][:3], store.read("embeddings/mine.zarr")["train"][:3]
    for row, image in enumerate(pixels):
        Image.fromarray(image[..., 0]).save(elsewhere / f"images/{row}.png")
    (elsewhere / "params.yaml").write_text(json.dumps(chosen.model_dump(mode="json")))
    shutil.rmtree(module.parent)
    done = subprocess.run([sys.executable, "-m", "nfk", "embed", "--model", embedder.reference, "images"],
                          cwd=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = np.array(pq.read_table(elsewhere / "embeddings.parquet")["embedding"].to_pylist())
    assert found == pytest.approx(expected, abs=1e-5 * float(np.abs(expected).max()))


@pytest.mark.parametrize(("model", "message"), [
    ("my_nots.dense:build", r"no module 'my_nots' in .* nor among the installed; run from"),
    ("my_nets.dence:build", r"no module 'my_nets.dence' in"),
    ("my_nets.broken:build", r"importing my_nets.broken failed: ModuleNotFoundError: No module named"),
    ("my_nets.dense:biuld", r"module my_nets.dense has no 'biuld', did you mean 'build'\?"),
    ("my_nets.dense:number", r"my_nets.dense:number is int, not a function"),
    ("my_nets.dense:nothing", r"my_nets.dense:nothing gave dict without params"),
    ("my_nets.dense:scalar", r"my_nets.dense:scalar: params\['scale'\] is float, not an array"),
    ("my_nets.dense:vector", r"my_nets.dense:vector: log_density gives .*144.*, must be one floating-point number"),
    ("my_nets.dense:wide", r"my_nets.dense:wide: sample gives values from 2 to 2, must be in \[0, 1\]"),
    ("my_nets.dense:flat", r"my_nets.dense:flat: sample\(100\) has shape \(100, 12, 12\), must be \(100, 12, 12, 1\)"),
    ("my_nets.dense:failing_train", r"failing_train: train failed: AttributeError: 'numpy.ndarray' object has no"),
    ("my_nets.dense:infinite", r"my_nets.dense:infinite: train gave loss=nan, must be finite"),
    ("my_nets.dense:double", r"my_nets.dense:double: params\['scale'\] is float64; scores are taken in float32"),
    ("my_nets.dense:shipped", r"dense:shipped failed: .* the shipped Mlp: name that in params.yaml, model: mlp"),
    ("my_nets.dense:failing", r"my_nets.dense:failing failed: KeyError: 'depth'"),
])
def test_refusals(workspace, module, model, message):
    chosen = workspace.params({"mine": {"model": model}})
    with pytest.raises(CustomError, match=message) as refused:
        workspace.run(chosen, "mine", "pretrain")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("entry", "message"), [
    ({"model": "my nets:build"}, r"families.mine.model='my nets:build': String should match pattern"),
    ({"model": "a:b", "option": {}}, r"families.mine.option: unknown key, did you mean 'options'\?; allowed: model"),
    ({"model": "lenet"}, r"families.mine.model='lenet': unknown model.* allowed: dcgan.*, or module:function"),
])
def test_entries_refused(workspace, entry, message):
    with pytest.raises(ParamsError, match=message):
        workspace.params({"mine": entry})


def test_metrics_may_be_jax_scalars(workspace, module, tmp_path):
    workspace.run(workspace.params({"mine": {"model": "my_nets.dense:measured"}}), "mine", "pretrain")
    assert json.loads((tmp_path / "models/mine/card.json").read_text())["metrics"] == {"loss": 1.0}


def test_its_weights_come_back_bit_for_bit(workspace, module, tmp_path):
    chosen = settings(workspace, "trainable")
    workspace.run(chosen, "mine", "pretrain")
    kept = load(tmp_path / "models/mine", chosen.code)
    start = importlib.import_module("my_nets.dense").trainable({"width": 4}, (12, 12, 1), 2)
    assert np.array_equal(kept.params.hidden[0], start.params.hidden[0])
    assert np.all(np.asarray(kept.params.out) > np.asarray(start.params.out) + 0.9)
