"""The noise of the potentials."""

import numpy as np
from scipy import stats

from nfk.models.fixed_noise import fixed_noise


def test_the_fixed_noise_is_standard_normal_and_follows_no_setting():
    noise = fixed_noise((8, 28, 28, 1))
    assert stats.kstest(noise.ravel(), "norm").pvalue > 0.01
    np.testing.assert_array_equal(noise[:3], fixed_noise((3, 28, 28, 1)))
    # the first numbers, so that a change of them, which would change every embedding, is seen
    np.testing.assert_allclose(noise.ravel()[:3], [0.35034922, -0.61345816, -1.7394989], rtol=1e-6)
