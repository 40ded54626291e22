"""RotNet, BiGAN and supervised training of a discriminator's layers: their losses by hand, what they learn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfk.family_params import DcganParams, MlpParams
from nfk.models.families import initial
from nfk.studies import pretext
from nfk.studies.pretext_tasks import bigan
from nfk.studies.pretext_tasks.body import Headed
from nfk.studies.pretext_tasks.classes import rotations
from nfk.study_params import PretextParams
from tests.models.small_networks import CLASSES
from tests.studies.conftest import Memory, Splits

PARAMS = PretextParams(family="gan", batch=32, learning_rate=5e-3, epochs=4, bigan_epochs=120, bigan_learning_rate=2e-3,
                       bigan_hidden=32)


class Upright(Splits):
    """Squares under a bright edge: what is up can be told."""

    def pixels(self, split, most=None):
        images = super().pixels(split, most).copy()
        images[:, :2] = 255
        return images


@pytest.fixture
def with_gan(material):
    model = initial(DcganParams(width=4, generator_width=4, latent=4), (12, 12, 1), CLASSES, jax.random.key(0))
    return material._replace(model=model, images=Upright())


def test_rotations_and_their_labels_by_hand():
    image = jnp.array([[1, 2], [3, 4]], jnp.uint8)[None, :, :, None]
    turned, labels = rotations(jnp.concatenate([image, image + 4]))
    assert turned[..., 0].tolist() == [
        [[1, 2], [3, 4]], [[5, 6], [7, 8]], [[2, 4], [1, 3]], [[6, 8], [5, 7]],
        [[4, 3], [2, 1]], [[8, 7], [6, 5]], [[3, 1], [4, 2]], [[7, 5], [8, 6]]]
    assert labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_bigans_value_by_hand():
    """D(x, E(x)) = 3/4 and 1/2, D(G(z), z) = 1/5."""
    encoded, generated = jnp.log(jnp.array([3.0, 1.0])), jnp.log(jnp.array([0.25]))
    expected = (np.log(3 / 4) + np.log(1 / 2)) / 2 + np.log(4 / 5)
    assert float(bigan.value(encoded, generated)) == pytest.approx(expected, rel=1e-6)
    expected = (np.log(1 / 4) + np.log(1 / 2)) / 2 + np.log(1 / 5)
    assert float(bigan.swapped(encoded, generated)) == pytest.approx(expected, rel=1e-6)
    nothing = jnp.zeros(3)
    assert float(bigan.value(nothing, nothing)) == pytest.approx(-2 * np.log(2), rel=1e-6)


def test_a_step_moves_each_player_its_own_way(with_gan):
    """One step of the discriminator raises the value, one of the others lowers it, with the other side held."""
    adversaries = with_gan.model.adversaries
    made = bigan.BiGan(Headed(adversaries.discriminator, 4), adversaries.generator,
                       bigan.JointDiscriminator(adversaries.discriminator, 32), 2e-3)
    players = made.start((12, 12, 1), jax.random.key(0))
    images = jnp.asarray(with_gan.images.pixels("train")[:32], jnp.float32) / 255
    latents = jax.random.normal(jax.random.key(1), (32, 4))

    @jax.jit
    def value(players):
        (encoded, _), _ = made._encoded(players.encoder.variables, images)
        generated, _ = made._generated(players.generator.variables, latents)
        logits = made.discriminator.apply(players.discriminator.variables, jnp.concatenate([images, generated]),
                                          jnp.concatenate([encoded, latents]))
        return bigan.value(*jnp.split(logits, 2))

    after, _ = made.step(players, with_gan.images.pixels("train")[:32], np.zeros(32, np.int32), jax.random.key(1))
    judged = players._replace(discriminator=after.discriminator)
    assert value(judged) > value(players)
    assert value(after) < value(judged)


def test_all_three_learn(with_gan):
    kept: dict = {}
    told = []
    material = with_gan._replace(checkpoint=Memory(kept))
    found = pretext.run(material, PARAMS, lambda done, total, what: told.append(what))
    features = found.numbers["features"]
    assert set(features) == {"untrained", "rotnet", "bigan", "bigan-encoder", "supervised"}
    assert features["rotnet"]["validation_rotation_accuracy"] > 0.9
    assert features["supervised"]["accuracy"] > 0.9
    assert features["bigan-encoder"]["dimension"] == 4 and features["bigan-encoder"]["accuracy"] > 0.6
    assert features["rotnet"]["dimension"] == features["untrained"]["dimension"] == 4 * 16 + 8 * 9 + 16 * 4
    assert all(0.25 < one["accuracy"] <= 1 for one in features.values())
    assert any(what.startswith("RotNet, epoch") for what in told) and any("BiGAN, epoch" in what for what in told)
    discriminator = sum(leaf.size for leaf in jax.tree.leaves(with_gan.model.params))
    assert found.numbers["parameters"] == discriminator + 2 * 64 + 64 * CLASSES + CLASSES

    # images come back as themselves, nearer than to other images; where nothing is learnt, as near as to those
    work = pretext._Work(material, PARAMS, lambda *_: None)
    made, players = work.bigan()
    again = work.reconstructed(made, players, 64)
    images = material.images.pixels("validation") / 255
    errors = np.square(again[:, None] - images[None]).mean(axis=(2, 3, 4))
    assert np.diag(errors).mean() < 0.7 * errors.mean()

    # what is done is not trained again
    told.clear()
    assert pretext.run(material, PARAMS, lambda done, total, what: told.append(what)).numbers == found.numbers
    assert told and all(what.startswith("probe") for what in told)


@pytest.mark.parametrize("change, message", [
    ({"model": initial(MlpParams(hidden=2), (12, 12, 1), 2, jax.random.key(0))},
     r"family=gan has no discriminator, .*; name a family of model dcgan or resnet_gan"),
    ({"images": type("Oblong", (), {"shape": (12, 14, 1)})()}, r"images of 12 x 14 pixels: turned .* leave rotnet out"),
])
def test_what_cannot_be_trained_is_refused(with_gan, change, message):
    with pytest.raises(ValueError, match=message) as refused:
        pretext.run(with_gan._replace(**change), PARAMS, lambda *_: None)
    assert "\n" not in str(refused.value)
