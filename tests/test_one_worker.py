"""What runs in one worker: with another grouping every test would pass, and the suite take half as long again."""

import pytest

from tests.conftest import _TogetherByNetwork


@pytest.mark.parametrize("test, group", [
    ("tests/data/test_idx.py::test_a_folder[dcgan]", "tests/data/test_idx.py"),
    ("tests/models/test_checkpoint.py::test_a_saved_network[edm_colour]", "network edm_colour"),
    ("tests/models/test_adversarial.py::test_kernels[trained-resnet_gan]", "network resnet_gan"),
    ("tests/models/test_trained_models.py::test_activations[edm-layers6]", "network edm"),
    ("tests/models/test_vdvae.py::test_levels", "network vdvae"),
    ("tests/models/test_convolution.py::test_shapes[3-valid]", "tests/models/test_convolution.py"),
])
def test_a_network_in_tests_of_models_and_else_a_file(test, group):
    assert _TogetherByNetwork._split_scope(None, test) == group


def test_the_scheduler_is_ours(request):
    """Of the run that is going on, where it has workers."""
    made = request.config.pluginmanager.hook.pytest_xdist_make_scheduler
    assert any(found.plugin_name.endswith("tests/conftest.py") for found in made.get_hookimpls())
