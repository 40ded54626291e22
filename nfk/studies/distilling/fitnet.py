"""FitNet: Romero et al. 2015, "FitNets: hints for thin deep nets".

The hint's loss is theirs, 1/2 |u(x) - r(v(x))|^2 with u the teacher's middle layer, v the student's and r a
convolution to the teacher's channels. It is minimised together with the cross-entropy, as in later comparisons (Tian et
al. 2020), where Romero et al. train the hint first, then the whole network by KD.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from nfk.studies.distilling.seen import Seen

BETA = 1.0
"""Of the half mean square. Tian et al.'s 200 makes the students here diverge, whose rate is 0.1."""


def hint_distance(regressed: Float[Array, "b h w d"], hint: Float[Array, "b h w d"]) -> Float[Array, ""]:
    """Half the mean squared difference: the published sum over places and channels, over their number."""
    return jnp.mean((regressed - hint) ** 2) / 2


class Hint(nn.Module):
    @nn.compact
    def __call__(self, seen: Seen) -> Float[Array, ""]:
        middle = seen.maps[len(seen.maps) // 2]
        regressed = nn.Dense(middle.teacher.shape[-1], name="regressor")(middle.student)  # a 1 x 1 convolution
        return hint_distance(regressed, middle.teacher)
