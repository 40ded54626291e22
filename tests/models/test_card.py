"""A network's folder as it may come from outside: bit for bit back, or one line; a network of the user's own too."""

from __future__ import annotations

import hashlib
import json
import re

import jax
import numpy as np
import pytest
import safetensors.numpy

from nfk.family_params import CustomParams, MlpParams
from nfk.models.checkpoint import CARD, WEIGHTS, ModelError, flatten, load, read_card, save
from nfk.models.custom import Custom, CustomError
from nfk.models.families import initial
from nfk.training import Check, Trained

SHAPE, CLASSES = (2, 2, 1), 3


@pytest.fixture(scope="module")
def network():
    return initial(MlpParams(hidden=2), SHAPE, CLASSES, jax.random.key(0))


@pytest.fixture
def saved(tmp_path, network):
    save(network, tmp_path)
    return tmp_path


def change_card(folder, **entries):
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({k: v for k, v in (card | entries).items() if v is not None}))


def put_weights(folder, content):
    """A card that vouches for them, as a sender's own would."""
    (folder / WEIGHTS).write_bytes(content)
    change_card(folder, sha256=hashlib.sha256(content).hexdigest())


def refused(folder, message, code=()):
    with pytest.raises(ModelError, match=message) as refusal:
        load(folder, code)
    assert str(refusal.value).isprintable()


def test_what_was_saved_comes_back(saved, network):
    model = load(saved)
    assert (model.config, model.image_shape, model.classes) == (network.config, SHAPE, CLASSES)
    jax.tree.map(np.testing.assert_array_equal, model.variables, network.variables)


def test_equal_networks_have_equal_bytes(tmp_path, network):
    for folder in ("a", "b"):
        save(network, tmp_path / folder)
    for file in (WEIGHTS, CARD):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_metrics_checks_and_extra_entries_are_on_the_card(tmp_path, network):
    check = Check("falls", True, 0.5, 1.0, "train longer")
    written = save(Trained(network, {}, {"loss": 0.5}, [check]), tmp_path, {"data": "0123"})
    assert written == read_card(tmp_path)
    assert (written["metrics"], written["data"]) == ({"loss": 0.5}, "0123")
    assert [Check(**kept) for kept in written["checks"]] == [check]


def test_an_extra_entry_cannot_replace_the_cards_own(tmp_path, network):
    with pytest.raises(ModelError, match=r"extra entries classes, sha256 would overwrite the card's own"):
        save(network, tmp_path, {"sha256": "", "classes": 3})
    assert not (tmp_path / CARD).exists()


def test_changed_weights_are_refused(saved):
    weights = bytearray((saved / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (saved / WEIGHTS).write_bytes(weights)
    refused(saved, r"weights.safetensors: SHA-256 [0-9a-f]{64} is not [0-9a-f]{64}")


@pytest.mark.parametrize("missing", [WEIGHTS, CARD])
def test_a_missing_file_is_refused(saved, missing):
    (saved / missing).unlink()
    refused(saved, rf"{re.escape(str(saved / missing))}: no such file; run the pretrain")


def test_an_unknown_model_is_refused_naming_the_known(saved):
    change_card(saved, model="resnet")
    refused(saved, r"unknown model 'resnet'; known: dcgan, resnet_gan, conv_vae, .*lenet5, mlp")


@pytest.mark.parametrize("text, message", [
    ("{", r"card.json: not valid JSON"),
    ("[" * 100_000, r"card.json: not valid JSON"),
    ("[]", r"card.json: all entries missing"),
    ('{"model": "mlp"}', r"card.json: config, image_shape, classes, parameters, sha256 missing"),
])
def test_a_card_that_is_none_is_refused(saved, text, message):
    (saved / CARD).write_text(text)
    refused(saved, message)


@pytest.mark.parametrize(("entry", "value"), [
    ("model", 3), ("model", ["mlp"]), ("config", []), ("image_shape", "2x2"), ("image_shape", [2, 2]),
    ("image_shape", [2, 2.0, 1]), ("image_shape", [2, 0, 1]), ("image_shape", [True, 2, 1]), ("classes", 1.5),
    ("classes", True), ("sha256", 7),
])
def test_an_entry_of_another_kind_is_refused(saved, entry, value):
    change_card(saved, **{entry: value})
    refused(saved, rf"card.json: {entry}=.* is not what the pretrain stage writes; run it again")


def test_a_configuration_of_another_version_is_refused(saved):
    change_card(saved, config={"model": "mlp", "depth": 9})
    refused(saved, r"card.json: config.mlp.depth: Extra inputs are not permitted")


def test_sizes_that_make_no_network_are_refused(saved):
    change_card(saved, classes=-1)
    refused(saved, r"card.json: makes no network for images of shape \(2, 2, 1\) \(.+\); run the pretrain stage again")


@pytest.mark.parametrize("content", [
    b"", b"PK a pickle", b"\x08\0\0\0\0\0\0\0{}      ",  # no network is without arrays
    json.dumps({"x": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}).encode().ljust(80),
])
def test_weights_that_are_none_are_refused(saved, content):
    if content.startswith(b"{"):
        content = len(content).to_bytes(8, "little") + content + b"\0"
    put_weights(saved, content)
    refused(saved, r"weights.safetensors: (not safetensors \(|array params/dense_0/bias \(one of 6 such\))")


@pytest.mark.parametrize(("change", "message"), [
    (lambda named: named.pop("params/dense_1/bias"), r"array params/dense_1/bias \(one of 1 such\) is not what mlp"),
    (lambda named: named.update(more=np.zeros(1, np.float32)), r"array more \(one of 1 such\)"),
    (lambda named: named.update({"params/dense_1/bias": np.zeros(2, np.float16)}), r"array params/dense_1/bias"),
    (lambda named: named.update({"params/dense_1/bias": np.zeros(3, np.float32)}), r"array params/dense_1/bias"),
])
def test_other_arrays_than_the_card_says_are_refused(saved, change, message):
    named = safetensors.numpy.load((saved / WEIGHTS).read_bytes())
    change(named)
    put_weights(saved, safetensors.numpy.save(named))
    refused(saved, message)


def test_weights_of_another_shape_than_the_card_says_are_refused(saved):
    change_card(saved, classes=5)
    refused(saved, r"params/dense_2/bias \(one of 2 such\) is not what mlp has")


def test_a_save_that_breaks_off_leaves_nothing_to_load(saved, network, monkeypatch):
    def fail(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("nfk.durable.Disk.write", fail)
    with pytest.raises(OSError, match="no space left"):
        save(network, saved)
    refused(saved, r"card.json: no such file")


def test_names_are_paths():
    assert list(flatten({"params": {"b": {"kernel": 1}, "a": 2}})) == ["params/a", "params/b/kernel"]


# --- a network of the user's own ---

OWN = """\
import numpy as np


class Line:
    def __init__(self, weight):
        self.params = {"weight": np.asarray(weight, np.float32)}

    def log_density(self, params, x, key):
        return (params["weight"] * x.sum()).astype("float32")

    def with_params(self, params):
        return Line(params["weight"])


def build(options, image_shape, classes):
    return Line(options["weight"])
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The folder of such a network, and its "module:function"; of each test another, since Python keeps modules."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = f"own_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(OWN)
    name = f"{module}:build"
    save(Custom.initial(CustomParams(model=name, options={"weight": 2.0}), SHAPE, CLASSES), tmp_path / "kept")
    return tmp_path / "kept", name


def test_a_network_of_the_users_own_comes_back(own):
    folder, name = own
    put_weights(folder, safetensors.numpy.save({"weight": np.asarray(5, np.float32)}))
    assert load(folder, (name,)).params["weight"] == 5.0  # the weights kept, not those that the function begins with


def test_its_file_must_be_the_one_it_was_made_with(own):
    folder, name = own
    change_card(folder, source="0" * 64)
    refused(folder, "is not the one this network was made with; run the pretrain stage again", (name,))


def test_a_card_names_no_code_that_nobody_else_names(saved, tmp_path, monkeypatch):
    """Importing a module runs it; the digest beside its name on the card is the card's, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    source = "import pathlib\npathlib.Path('executed').touch()\n"
    (tmp_path / "unasked.py").write_text(source)
    change_card(saved, model="unasked:build", config={}, source=hashlib.sha256(source.encode()).hexdigest())
    for code in ((), ("mine:build",), ("unasked:other",), ("unasked",)):
        refused(saved, r"card.json: names the code unasked:build, which to load is to run; name", code)
    assert not (tmp_path / "executed").exists()
    with pytest.raises(CustomError, match="module unasked has no 'build'"):
        load(saved, ("unasked:build",))
    assert (tmp_path / "executed").exists()
