"""Networks on disk: bit for bit back, and one line where they cannot be."""

import hashlib
import json
import re

import jax
import numpy as np
import pytest
import safetensors.numpy

from nfk.models.checkpoint import CARD, WEIGHTS, ModelError, flatten, load, read_card, save
from nfk.models.custom import CustomError
from nfk.models.families import MODELS
from nfk.params import parse
from nfk.training import Check
from tests.models.small_networks import CONFIGS, start


@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_saved_network_comes_back_bit_for_bit(tmp_path, trained, name):
    result = trained(name)
    save(result, tmp_path, {})
    model = load(tmp_path)
    assert type(model) is type(result.model)
    assert (model.config, model.image_shape, model.classes) == (
        result.model.config, result.model.image_shape, result.model.classes)
    jax.tree.map(np.testing.assert_array_equal, model.variables, result.model.variables)


@pytest.mark.parametrize("name", ["dcgan"])
def test_the_card_says_what_the_weights_are(tmp_path, trained, name):
    result = trained(name)
    written = save(result, tmp_path, {"data": "0123"})
    card = json.loads((tmp_path / CARD).read_text())
    assert card == written == read_card(tmp_path)
    assert card["model"] == "dcgan" and card["config"]["width"] == 4 and card["image_shape"] == [12, 12, 1]
    assert card["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(result.model.params))
    assert card["metrics"] == result.metrics and card["data"] == "0123"
    assert [Check(**check) for check in card["checks"]] == result.checks
    names = safetensors.numpy.load_file(tmp_path / WEIGHTS).keys()
    assert "params/discriminator/conv_0/kernel" in names
    assert "batch_stats/discriminator/norm_0/conv_0/kernel/u" in names
    assert "batch_stats/generator/norm_1/mean" in names


def test_equal_networks_have_equal_bytes(tmp_path):
    for folder in ("a", "b"):
        save(start("mlp"), tmp_path / folder)
    for file in (WEIGHTS, CARD):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_an_extra_entry_cannot_replace_the_cards_own(tmp_path):
    with pytest.raises(ModelError, match=r"extra entries classes, sha256 would overwrite the card's own"):
        save(start("mlp"), tmp_path, {"sha256": "", "classes": 3})
    assert not (tmp_path / CARD).exists()


@pytest.fixture
def saved(tmp_path):
    save(start("mlp"), tmp_path)
    return tmp_path


def change_card(folder, **entries):
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({k: v for k, v in (card | entries).items() if v is not None}))


def test_changed_weights_are_refused(saved):
    weights = bytearray((saved / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (saved / WEIGHTS).write_bytes(weights)
    with pytest.raises(ModelError, match=r"weights.safetensors: SHA-256 [0-9a-f]{64} is not [0-9a-f]{64}"):
        load(saved)


@pytest.mark.parametrize("missing", [WEIGHTS, CARD])
def test_a_missing_file_is_refused(saved, missing):
    (saved / missing).unlink()
    with pytest.raises(ModelError, match=rf"{re.escape(str(saved / missing))}: no such file; run the pretrain"):
        load(saved)


def test_an_unknown_model_is_refused_naming_the_known(saved):
    change_card(saved, model="resnet")
    with pytest.raises(ModelError, match=r"unknown model 'resnet'; known: dcgan, resnet_gan, conv_vae, .*lenet5, mlp"):
        load(saved)


@pytest.mark.parametrize("text, message", [
    ("{", r"card.json: not valid JSON"),
    ("[]", r"card.json: all entries missing"),
    ('{"model": "mlp"}', r"card.json: config, image_shape, classes, parameters, sha256 missing"),
])
def test_a_card_that_is_none_is_refused(saved, text, message):
    (saved / CARD).write_text(text)
    with pytest.raises(ModelError, match=message):
        load(saved)


def test_a_card_names_no_code_that_nobody_else_names(saved, tmp_path, monkeypatch):
    """Importing a module runs it; the digest beside its name on the card is the card's, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    source = "import pathlib\npathlib.Path('executed').touch()\n"
    (tmp_path / "unasked.py").write_text(source)
    change_card(saved, model="unasked:build", config={}, source=hashlib.sha256(source.encode()).hexdigest())
    for code in ((), ("mine:build",), ("unasked:other",), ("unasked",)):
        with pytest.raises(ModelError, match=r"card.json: names the code unasked:build, which to load is to run; name"):
            load(saved, code)
    assert not (tmp_path / "executed").exists()
    with pytest.raises(CustomError, match="module unasked has no 'build'"):
        load(saved, ("unasked:build",))
    assert (tmp_path / "executed").exists()


def test_a_configuration_of_another_version_is_refused(saved):
    change_card(saved, config={"model": "mlp", "depth": 9})
    with pytest.raises(ModelError, match=r"card.json: config.mlp.depth: Extra inputs are not permitted"):
        load(saved)


def test_weights_of_another_shape_than_the_card_says_are_refused(saved):
    change_card(saved, classes=5)
    with pytest.raises(ModelError, match=r"params/dense_2/bias \(one of 2 such\) is not what mlp has"):
        load(saved)


def test_a_save_that_breaks_off_leaves_nothing_to_load(saved, monkeypatch):
    def fail(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("nfk.durable.Disk.write", fail)
    with pytest.raises(OSError, match="no space left"):
        save(start("mlp"), saved)
    with pytest.raises(ModelError, match=r"card.json: no such file"):
        load(saved)


def test_names_are_paths():
    assert list(flatten({"params": {"b": {"kernel": 1}, "a": 2}})) == ["params/a", "params/b/kernel"]


def test_every_model_of_params_yaml_can_be_made():
    families = {name: {"model": name} for name in MODELS}
    assert set(parse({"families": families}).families) == set(MODELS)
    for name in CONFIGS:
        assert isinstance(start(name), MODELS[CONFIGS[name][0].model])
