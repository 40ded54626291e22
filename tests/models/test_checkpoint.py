"""Networks on disk, bit for bit back, of every kind once trained; tests/models/test_card.py has what is refused."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from nfk.models.checkpoint import CARD, WEIGHTS, load, read_card, save
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


def test_every_model_of_params_yaml_can_be_made():
    families = {name: {"model": name} for name in MODELS}
    assert set(parse({"families": families}).families) == set(MODELS)
    for name in CONFIGS:
        assert isinstance(start(name), MODELS[CONFIGS[name][0].model])
