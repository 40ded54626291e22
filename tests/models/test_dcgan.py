"""DCGAN: its sizes and the images its generator makes. What it shares with other GANs: test_adversarial.py."""

import jax
import jax.numpy as jnp
import pytest

from nfk.family_params import DcganParams
from nfk.models.dcgan import Dcgan, Generator
from tests.models.small_networks import key


@pytest.mark.parametrize("width, image_shape, parameters", [
    (10, (28, 28, 1), 16_871),  # the paper's "17K"
    (64, (28, 28, 1), 660_929),
    (64, (32, 32, 3), 662_977),
])
def test_discriminator_has_the_parameters_of_its_layers(width, image_shape, parameters):
    params = jax.eval_shape(lambda: Dcgan.initial(DcganParams(width=width), image_shape, 10, key(0)).params)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters


@pytest.mark.parametrize("image_shape", [(28, 28, 1), (32, 32, 3), (9, 14, 2)])
def test_generator_makes_images_of_any_size(image_shape):
    generator = Generator(4, image_shape)
    made = jax.eval_shape(lambda z: generator.init_with_output(key(0), z)[0], jnp.zeros((5, 8)))
    assert made.shape == (5, *image_shape)
