"""The classifiers: sizes, the potential, what they learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from nfk.family_params import Lenet5Params, MlpParams
from nfk.models.classifier import Lenet5, Mlp, appraise, shift
from tests.models.small_networks import examples, key, squares, start


def parameters(network, config, image_shape, classes):
    params = jax.eval_shape(lambda: network.initial(config, image_shape, classes, key(0)).params)
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("image_shape", [(28, 28, 1), (32, 32, 1)])
def test_lenet5_has_its_61706_parameters(image_shape):
    assert parameters(Lenet5, Lenet5Params(), image_shape, 10) == 61_706


def test_mlp_has_three_dense_layers():
    expected = (784 + 1) * 100 + (100 + 1) * 100 + (100 + 1) * 7
    assert parameters(Mlp, MlpParams(hidden=100), (28, 28, 1), 7) == expected


def test_lenet5_refuses_images_its_convolutions_do_not_fit():
    with pytest.raises(ValueError, match=r"lenet5 on images of \(11, 20\) pixels: needs 12 x 12"):
        Lenet5.initial(Lenet5Params(), (11, 20, 1), 10, key(0))


@pytest.mark.parametrize("name", ["lenet5", "mlp"])
def test_density_is_the_negative_free_energy(trained, name):
    """s = logsumexp f_y, so its score is the mean score of the classes' log p(y | x) + s under p(y | x)."""
    model = trained(name).model
    x = jnp.asarray(examples(name))
    logits = np.asarray(model.activations(x)["logits"], np.float64)
    density = jax.jit(model.log_density)
    np.testing.assert_allclose([density(model.params, image, key(0)) for image in x], logsumexp(logits, axis=1),
                               rtol=1e-5)


def test_score_is_the_mean_of_the_logits_gradients():
    model = start("mlp")
    x = jnp.asarray(examples("mlp"))[:1]

    def logits(params):
        return model.network.apply({"params": params}, x)[0][0]

    probabilities = jax.nn.softmax(logits(model.params))
    score = jax.jit(jax.grad(model.log_density))(model.params, x[0], key(0))
    mean = jax.tree.map(lambda jacobian: jnp.tensordot(probabilities, jacobian, 1),
                        jax.jit(jax.jacrev(logits))(model.params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), score, mean)


@pytest.mark.parametrize("name", ["lenet5", "mlp"])
def test_learns_the_quarter_of_the_square(trained, name):
    result = trained(name)
    images, labels = squares(200, 1, 9)
    logits = result.model.activations(jnp.asarray(images.astype(np.float32) / 255))["logits"]
    assert np.mean(np.asarray(logits).argmax(1) == labels) > 0.95
    assert result.metrics["validation_accuracy"] > 0.95


def test_a_classifier_that_learns_nothing_is_found():
    labels = np.array([0, 0, 1, 2], np.int32)
    assert [check.passed for check in appraise({"validation_accuracy": 0.5}, labels)] == [False]
    assert [check.passed for check in appraise({"validation_accuracy": 0.9}, labels)] == [True]


def test_shift_moves_each_image_by_up_to_a_pixel_every_way():
    dots = np.zeros((200, 5, 5, 1), np.uint8)
    dots[:, 2, 2] = 9
    moved = np.asarray(shift(jnp.asarray(dots), key(0)))
    where = np.argwhere(moved[..., 0])
    assert len(where) == 200 and (moved.sum(axis=(1, 2, 3)) == 9).all()
    assert {tuple(place) for place in where[:, 1:]} == {(r, c) for r in (1, 2, 3) for c in (1, 2, 3)}
    corner = np.ones((200, 5, 5, 1), np.uint8)
    assert set(np.asarray(shift(jnp.asarray(corner), key(0))).sum(axis=(1, 2, 3))) == {25, 20, 16}
