"""The Wide ResNet: its size, its frozen batch statistics, its recipe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfk.family_params import WideResnetParams
from nfk.models.families import initial
from nfk.models.wide_resnet import CropAndFlip
from nfk.params import ParamsError, parse
from nfk.training import TrainingError
from tests.models.small_networks import key


@pytest.mark.parametrize("depth, width, parameters", [(16, 1, 175_066), (16, 2, 691_674), (40, 2, 2_243_546)])
def test_named_networks_have_the_sizes_they_are_known_by(depth, width, parameters):
    config = WideResnetParams(depth=depth, width=width)
    params = jax.eval_shape(lambda k: initial(config, (32, 32, 3), 10, k).params, key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters


@pytest.mark.parametrize("depth, nearest", [(12, "10 or 16"), (39, "34 or 40")])
def test_other_depths_are_refused_with_the_nearest(depth, nearest):
    with pytest.raises(ParamsError, match=rf"families\.f: depth={depth} must be 6 n \+ 4, such as {nearest}"):
        parse({"families": {"f": {"model": "wide_resnet", "depth": depth}}})


def test_small_images_are_refused():
    with pytest.raises(TrainingError, match="needs 8 x 8"):
        initial(WideResnetParams(), (7, 9, 1), 10, key(0))


def test_training_moves_the_running_statistics(trained):
    model = trained("wide_resnet").model
    start = initial(model.config, model.image_shape, model.classes, key(0))
    for before, after in zip(*(jax.tree.leaves(one.variables["batch_stats"]) for one in (start, model)), strict=True):
        assert not np.allclose(before, after)


def test_a_crop_is_a_shift_with_zeros_moving_in():
    images = np.random.default_rng(0).integers(1, 256, (64, 8, 8, 1)).astype(np.uint8)
    cropped = np.asarray(CropAndFlip(0.1, 0.0, 2, flip=False).augment(jnp.asarray(images), key(1)))
    framed = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    met = set()
    for image, frame in zip(cropped, framed, strict=True):
        met.add(next((top, left) for top in range(5) for left in range(5)
                     if np.array_equal(image, frame[top : top + 8, left : left + 8])))
    assert len(met) > 10


def test_half_of_the_images_are_mirrored_where_asked():
    images = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 3)).astype(np.uint8)
    flipped = np.asarray(CropAndFlip(0.1, 0.0, 0, flip=True).augment(jnp.asarray(images), key(1)))
    mirrored = [np.array_equal(image, one[:, ::-1]) for image, one in zip(flipped, images, strict=True)]
    kept = [np.array_equal(image, one) for image, one in zip(flipped, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 70 < sum(mirrored) < 130


def test_weight_decay_pulls_kernels_only():
    params = {"kernel": jnp.ones((3, 3)), "bias": jnp.ones(3)}
    optimiser = CropAndFlip(1.0, 0.1, 0, flip=False).optimiser(10)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimiser.update(jax.tree.map(jnp.zeros_like, params), optimiser.init(params), params)
    assert np.all(np.asarray(updates["kernel"]) < 0) and np.all(np.asarray(updates["bias"]) == 0)
