"""Which of the ways to compute a convolution is the quickest here, for one example at a time: found once by timing.

The ways give the same numbers to rounding but not the same bits, so what was found is kept in a file of the user's
cache: every later process on this machine computes alike.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from nfk import durable
from nfk.in_cache import map_in_cache

Convolution = Callable[..., jax.Array]

_EXAMPLES, _REPEATS = 128, 5


def cache_file() -> Path:
    """Where choices are kept: `convolutions.json` in $NFK_CACHE, $XDG_CACHE_HOME/nfk or ~/.cache/nfk."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("NFK_CACHE") or Path(base) / "nfk") / "convolutions.json"


@functools.cache
def quickest(
    ways: tuple[tuple[str, Convolution], ...], image: tuple[int, ...], kernel: tuple[int, ...], options: str
) -> str:
    """The name of the way whose per-example gradients, in kernel and image, take least time for images (1, h, w, c).

    The first of `ways` keeps its place unless another is a tenth quicker. options: the convolution's settings as
    JSON. Cost of a first call for some shapes: one compilation a way; of later ones, in any process, none.
    """
    device = jax.devices()[0].device_kind
    key = json.dumps([device, jax.__version__, [name for name, _ in ways], image, kernel, options])
    if (known := _known().get(key)) in dict(ways):
        return known
    # a thread of its own: the caller is being traced, and what runs there would be traced with it
    with ThreadPoolExecutor(1) as aside:
        seconds = {name: aside.submit(_seconds, way, image, kernel, json.loads(options)).result() for name, way in ways}
    first = ways[0][0]
    best = min(seconds, key=lambda name: seconds[name])
    return _remember(key, best if seconds[best] < 0.9 * seconds[first] else first)


def _seconds(way: Convolution, image: tuple[int, ...], kernel: tuple[int, ...], options: Mapping[str, Any]) -> float:
    """The quickest of a few runs over a block of examples."""
    def forward(x: jax.Array, weights: jax.Array) -> jax.Array:
        return way(x, weights, **options).sum()

    def rows(part: jax.Array, weights: jax.Array) -> jax.Array:
        found = jax.vmap(jax.grad(forward, argnums=(0, 1)), in_axes=(0, None))(part, weights)
        return jnp.concatenate([leaf.reshape(len(part), -1) for leaf in found], axis=1)

    # as scores are taken: what is quick on its own may be slow inside a loop
    gradients = jax.jit(lambda block, weights: map_in_cache(lambda part: rows(part, weights), block))
    # values do not matter for time, but denormal ones would
    block, weights = jnp.ones((_EXAMPLES, *image), jnp.float32), jnp.ones(kernel, jnp.float32)
    jax.block_until_ready(gradients(block, weights))
    best = float("inf")
    for _ in range(_REPEATS):
        started = time.perf_counter()
        jax.block_until_ready(gradients(block, weights))
        best = min(best, time.perf_counter() - started)
    return best


def _known() -> dict[str, str]:
    try:
        return json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _remember(key: str, name: str) -> str:
    """Keep a choice, unless another process was first: then its choice."""
    path, known = cache_file(), _known()
    if key in known:
        return known[key]
    with suppress(OSError):  # a read-only home: the choice is made anew in every process
        durable.write_whole(path, json.dumps(known | {key: name}, indent=1, sort_keys=True).encode())
    return name
