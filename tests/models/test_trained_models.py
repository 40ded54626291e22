"""What every network must satisfy, whatever its kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from nfk.fisher.scores import Scores
from tests.models.small_networks import CLASSES, CONFIGS, Kept, examples, fit, key, start

NAMES = list(CONFIGS)
every_network = pytest.mark.parametrize("name", NAMES)


@every_network
def test_score_is_finite_and_reaches_every_parameter_array(scored, name):
    value, score = scored(name, "float32")
    assert value.shape == () and value.dtype == np.float32
    for path, leaf in jax.tree_util.tree_leaves_with_path(score):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


@every_network
def test_float32_density_and_score_are_the_float64_ones_to_round_off(scored, name):
    (value, score), (exact, exact_score) = scored(name, "float32"), scored(name, "float64")
    assert {leaf.dtype for leaf in jax.tree.leaves((exact, exact_score))} == {np.dtype("float64")}
    np.testing.assert_allclose(value, exact, rtol=1e-5, atol=1e-5)
    score, exact_score = flat(score), flat(exact_score)
    assert np.linalg.norm(score - exact_score) < 1e-4 * np.linalg.norm(exact_score)


def flat(tree):
    return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)]).astype(np.float64)


@every_network
def test_scores_by_blocks_are_those_of_each_image_alone(trained, name):
    """The path that Fisher vectors take against `jax.grad`, one example at a time, both in float64."""
    model = trained(name).model
    with jax.enable_x64(True):
        exact = Scores(model.log_density, model.params).in_float64
        x = jnp.asarray(examples(name), jnp.float64)
        gradient = jax.jit(jax.grad(model.log_density))
        for row, image in zip(np.asarray(exact(x)), x, strict=True):
            alone = flat(jax.tree.map(np.asarray, gradient(exact.params, image, key(0))))
            assert np.linalg.norm(row - alone) < 1e-10 * np.linalg.norm(alone)


@every_network
def test_score_is_the_derivative_of_the_density(trained, scored, name, x64):
    model = trained(name).model
    theta, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), model.params))
    x = jnp.asarray(examples(name)[0], jnp.float64)
    direction = np.random.default_rng(0).normal(size=theta.shape)
    direction *= 1e-5 / np.linalg.norm(direction)
    density = jax.jit(lambda theta: model.log_density(unravel(theta), x, key(0)))
    difference = (density(theta + direction) - density(theta - direction)) / 2
    np.testing.assert_allclose(flat(scored(name, "float64").score) @ direction, difference, rtol=1e-4)


@every_network
def test_density_knows_neither_batch_nor_key_nor_call(trained, name):
    model, x = trained(name).model, jnp.asarray(examples(name))
    keys = jax.random.split(key(3), len(x))
    batched = jax.jit(jax.vmap(model.log_density, (None, 0, 0)))
    together = batched(model.params, x, keys)
    np.testing.assert_array_equal(together, batched(model.params, x, keys[::-1]))
    density = jax.jit(model.log_density)
    alone = [density(model.params, image, keys[0]) for image in x]
    np.testing.assert_allclose(together, jnp.stack(alone), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["dcgan", "resnet_gan", "conv_vae", "vdvae", "flow", "pixelcnn", "edm"])
def test_activations_of_a_batch_are_those_of_its_images(trained, name):
    model, x = trained(name).model, jnp.asarray(examples(name))
    activations = jax.jit(model.activations)
    together = activations(x)
    for layer, alone in activations(x[1:2]).items():
        assert together[layer].shape == (len(x), *alone.shape[1:])
        np.testing.assert_allclose(together[layer][1:2], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name, layers", [
    ("dcgan", {"conv_0": (6, 6, 4), "conv_1": (3, 3, 8), "conv_2": (2, 2, 16)}),
    ("resnet_gan", {"block_0_inner": (12, 12, 4), "block_0": (6, 6, 4), "block_1_inner": (6, 6, 4),
                    "block_1": (3, 3, 4), "block_2_inner": (3, 3, 4), "block_2": (3, 3, 4),
                    "block_3_inner": (3, 3, 4), "block_3": (3, 3, 4), "pooled": (4,)}),
    ("conv_vae", {"encoder_conv_0": (6, 6, 4), "encoder_conv_1": (3, 3, 8), "encoder_dense": (16,),
                  "latent_mean": (4,), "decoder_dense_0": (16,), "decoder_dense_1": (3, 3, 8),
                  "decoder_double_0": (6, 6, 4)}),
    ("vdvae", {"encoder_0_0": (12, 12, 8), "encoder_1_0": (6, 6, 8), "encoder_2_0": (1, 1, 8),
               "latent_2_0": (1, 1, 2), "decoder_2_0": (1, 1, 8), "latent_1_0": (6, 6, 2), "decoder_1_0": (6, 6, 8),
               "latent_0_0": (12, 12, 2), "decoder_0_0": (12, 12, 8)}),
    ("flow", {"level_0_step_0_conv_0": (6, 6, 8), "level_0_step_0_conv_1": (6, 6, 8), "level_0_step_0": (6, 6, 4),
              "level_1_step_0_conv_0": (3, 3, 8), "level_1_step_0_conv_1": (3, 3, 8), "level_1_step_0": (3, 3, 8)}),
    ("pixelcnn", {"down_input": (12, 12, 6), "down_0_conv": (12, 12, 12), "down_0": (12, 12, 6),
                  "right_input": (12, 12, 6), "right_0_conv": (12, 12, 12), "right_0": (12, 12, 6)}),
    ("edm", {"down_0": (12, 12, 8), "down_1": (6, 6, 16), "middle": (3, 3, 16), "up_1": (6, 6, 16),
             "up_0": (12, 12, 8)}),
    ("lenet5", {"conv_0": (12, 12, 6), "pool_0": (6, 6, 6), "conv_1": (2, 2, 16), "pool_1": (1, 1, 16),
                "dense_0": (120,), "penultimate": (84,), "logits": (CLASSES,)}),
    ("mlp", {"dense_0": (16,), "penultimate": (16,), "logits": (CLASSES,)}),
    ("wide_resnet", {"conv": (12, 12, 16), "group_0_0": (12, 12, 16), "group_1_0": (6, 6, 32),
                     "group_2_0": (3, 3, 64), "penultimate": (64,), "logits": (CLASSES,)}),
])
def test_activations_are_all_layers_in_order_unpooled(name, layers):
    names = []

    def outputs(x):
        found = start(name).activations(x)
        names.extend(found)
        return list(found.values())

    shapes = jax.eval_shape(outputs, jnp.asarray(examples(name)))
    assert [(name, output.shape[1:]) for name, output in zip(names, shapes, strict=True)] == list(layers.items())


@pytest.mark.parametrize("name", ["dcgan", "resnet_gan", "conv_vae", "conv_vae_colour", "vdvae", "vdvae_colour",
                                  "flow", "flow_colour", "pixelcnn", "pixelcnn_colour", "edm", "edm_colour"])
def test_samples_are_images_and_follow_the_key(trained, name):
    model = trained(name).model
    samples = model.sample(key(0), 300)
    assert samples.shape == (300, *model.image_shape) and samples.dtype == np.float32
    assert samples.min() >= 0 and samples.max() <= 1
    assert len(np.unique(samples.reshape(300, -1), axis=0)) == 300
    np.testing.assert_array_equal(samples, model.sample(key(0), 300))
    assert not np.array_equal(samples[:256], model.sample(key(1), 256))


@pytest.mark.parametrize("name", ["lenet5", "mlp", "wide_resnet"])
def test_classifiers_have_no_samples(name):
    assert start(name).sample(key(0), 3) is None


@pytest.mark.parametrize("name", ["dcgan", "resnet_gan", "conv_vae", "vdvae", "flow", "pixelcnn", "edm",
                                  "lenet5", "wide_resnet"])
def test_a_training_that_broke_off_goes_on_to_the_same_network(trained, name):
    """The same as of a training never broken off, bit for bit: so equal keys train equal networks too."""
    kept, whole = broken_off(name, epochs=CONFIGS[name][0].epochs // 2), trained(name)
    resumed = fit(name, checkpoint=kept)
    jax.tree.map(np.testing.assert_array_equal, resumed.model.variables, whole.model.variables)
    assert (resumed.history, resumed.metrics, resumed.checks) == (whole.history, whole.metrics, whole.checks)


@pytest.mark.parametrize("name", ["dcgan", "resnet_gan", "conv_vae", "vdvae", "flow", "pixelcnn", "edm",
                                  "lenet5", "wide_resnet"])
def test_another_key_trains_another_network_from_the_first_epoch_on(trained, name):
    other, whole = broken_off(name, epochs=1, seed=2)["epochs"], trained(name).history
    assert any(other[f"history/{term}"][0] != values[0] for term, values in whole.items())


def broken_off(name: str, epochs: int, seed: int = 1) -> Kept:
    """What a training that ended after so many epochs had saved."""

    class Ending(Kept):
        def save(self, name: str, arrays: dict[str, np.ndarray]) -> None:
            super().save(name, arrays)
            if arrays["epochs"] >= epochs:
                raise KeyboardInterrupt

    kept = Ending()
    with pytest.raises(KeyboardInterrupt):
        fit(name, seed, checkpoint=kept)
    return Kept(kept)


@every_network
def test_training_passes_its_checks_and_leaves_the_start_alone(trained, name):
    result = trained(name)
    assert [check.name for check in result.checks if not check.passed] == []
    assert {len(values) for values in result.history.values()} == {CONFIGS[name][0].epochs}
    assert all(np.isfinite(value) for value in result.metrics.values())
    before, after = ravel_pytree(start(name).params)[0], ravel_pytree(result.model.params)[0]
    assert np.linalg.norm(after - before) > 0.05 * np.linalg.norm(before)


@every_network
def test_architecture_counts_theta(name):
    model = start(name)
    assert model.architecture["parameters"] == ravel_pytree(model.params)[0].size
    assert model.architecture["config"] == CONFIGS[name][0].model_dump()
    assert model.architecture["image_shape"] == list(model.image_shape)
    assert model.architecture["classes"] == CLASSES
