"""Work in pieces gives what the whole gives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfk.in_cache import EXAMPLES, map_in_cache


@pytest.mark.parametrize("count", [1, 7, EXAMPLES, 4 * EXAMPLES])
def test_pieces_give_the_whole(count):
    block = jnp.asarray(np.random.default_rng(0).standard_normal((count, 3, 2)))
    seen = []

    def rows(part):
        seen.append(len(part))
        return jnp.sin(part).reshape(len(part), -1)

    assert np.array_equal(jax.jit(lambda block: map_in_cache(rows, block))(block), jnp.sin(block).reshape(count, -1))
    assert max(seen) <= EXAMPLES
