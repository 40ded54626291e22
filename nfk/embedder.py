"""A pretrained network, its Fisher statistics and its right factor in one folder: all it takes to embed an image.

    model/card.json, model/weights.safetensors    the network
    embedder.zarr                                 statistics, right factor, singular values

No pickle, nothing outside the folder but, for a network of a user's own, the module it names, which must be importable,
unchanged, where the embedder is loaded; a registered one brings it along. It is what the registry keeps as an embedder.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from nfk import durable, store
from nfk.devices import everywhere
from nfk.fisher.embedding import embed, held_or_read, scale
from nfk.fisher.scores import Scores
from nfk.fisher.statistics import FisherStatistics
from nfk.fisher.theta import choose
from nfk.fisher.vectors import FisherVectors
from nfk.fisher.whitening import Whitening
from nfk.linalg.rows import Progress, silent
from nfk.linalg.tall import Tall
from nfk.memory import BUDGET_GIB
from nfk.models import checkpoint

MODEL, FACTORS = "model", "embedder.zarr"


class EmbedderError(ValueError):
    """Images an embedder was not made for; one line."""


def write(
    folder: Path, *, model: Path, statistics: store.Store, factors: store.Store, scaling: str,
    theta: Mapping[str, Any], inputs: Mapping[str, str],
) -> None:
    """Gather a family's network, statistics and right factor into `folder`, whole or not at all.

    theta: `include` and `exclude` of `nfk.fisher.theta.choose`."""
    with store.whole_folder(folder) as building:
        durable.make_folder(building / MODEL)
        for name in (checkpoint.WEIGHTS, checkpoint.CARD):
            durable.copy(model / name, building / MODEL / name)
        with store.write(building / FACTORS, inputs=inputs) as writer:
            for name, values in FisherStatistics.of_arrays(statistics).arrays().items():
                writer.put(name, values)
            writer.put_by_shards("right", factors["right"])
            writer.put("singular_values", factors["singular_values"][:])
            writer.attributes.update(scaling=scaling, damping=factors.attributes["damping"],
                                     unit_rows=factors.attributes.get("unit_rows", False),
                                     fitted=factors.attributes["examples"], theta=dict(theta))


def digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of every file of an embedder's folder; nothing of it is loaded."""
    return store.tree_digest(folder)


def code_of(folder: Path) -> tuple[str, ...]:
    """The "module:function" that the embedder's network comes from, where that is a user's own; nothing is imported."""
    model = checkpoint.read_card(folder / MODEL)["model"]
    return (model,) if ":" in model else ()


@dataclass(frozen=True)
class Embedder:
    """e(x) = W^T V_x, scaled as the pipeline's `embed` stage scales it."""

    image_shape: tuple[int, int, int]
    scores: Scores
    statistics: FisherStatistics
    right: Float[Array, "p k"] | Tall
    """in memory, or read by rows from the folder"""
    memory_bytes: int
    singular_values: Float[np.ndarray, " k"]
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    """digests of data, model, statistics and factors it was made from"""

    @classmethod
    def load(cls, folder: Path | str, memory_gib: float = BUDGET_GIB, *, code: Collection[str] = ()) -> Embedder:
        """What `write` wrote; every byte is held against its digest. StoreError or ModelError otherwise.

        A right factor that does not fit `memory_gib` twice stays in the folder, and is read anew for each group of
        images whose rows fit it. `code`: as `nfk.models.checkpoint.load` has it; `code_of` says what it asks for."""
        folder = Path(folder)
        model, found = checkpoint.load(folder / MODEL, code), _settled(store.read(folder / FACTORS))
        theta = choose(model.log_density, model.params, **found.attributes["theta"])
        scores, memory_bytes = Scores(theta.log_density, theta.params), int(memory_gib * 2**30)
        right = held_or_read(found["right"], memory_bytes)
        return cls(model.image_shape, scores, FisherStatistics.of_arrays(found),
                   everywhere(scores.mesh, right) if isinstance(right, jax.Array) else right, memory_bytes,
                   found["singular_values"][:], found.attributes, found.inputs)

    @property
    def rank(self) -> int:
        return len(self.singular_values)

    def __call__(
        self, images: Float[np.ndarray, "n h w c"], *, block: int = 256, progress: Progress = silent
    ) -> Float[np.ndarray, "n k"]:
        """The images' vectors, at the price of a gradient an image.

        images: float32 in [0, 1] of the network's own shape. EmbedderError for other shapes, and for numbers that
        are not in [0, 1]. Blocks are padded to powers of two, so that few sizes are compiled.
        """
        if images.shape == (0, *self.image_shape):
            return np.zeros((0, self.rank), np.float32)
        images = self.checked(images)
        vectors = FisherVectors(self.scores, images, self.statistics, block_rows=block, whitening=self._whitening64)
        store.check_unchanged(self.right)
        return self._scaled(embed(vectors, self.right, memory_bytes=self.memory_bytes - vectors.whitening_bytes,
                                  progress=progress))

    def at_once(self, images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n k"]:
        """The same of a few images in one block, with all that does not depend on them made before: what a server
        calls. ScoreError names an image whose score is not finite, by its place."""
        if not isinstance(self.right, jax.Array):
            return self(images, block=max(1, len(images)))
        images = self.checked(images)
        return self._scaled(np.asarray(self.scores.image(images, self._whitening, self.right)))

    @functools.cached_property
    def _whitening(self) -> Whitening:
        return self._whitening64.in_precision(self.scores.dtype)

    @functools.cached_property
    def _whitening64(self) -> Whitening:
        return self.statistics.whitening(self.scores.index, damping=self.settings["damping"],
                                         unit_rows=self.settings.get("unit_rows", False))  # older ones do not say

    def _scaled(self, vectors: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
        return scale(vectors, self.settings["scaling"], singular_values=self.singular_values,
                     fitted=self.settings["fitted"])

    def checked(self, images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n h w c"]:
        """Images that can be embedded, as float32; EmbedderError for others."""
        if images.ndim != 4 or images.shape[1:] != self.image_shape:
            wanted = ", ".join(map(str, self.image_shape))
            raise EmbedderError(f"images of shape {images.shape}: must be (n, {wanted}), those the network was trained "
                                "on; resize them, `nfk embed --resize` does")
        if len(images) == 0:
            raise EmbedderError("no images; give one at least")
        low, high = float(np.min(images)), float(np.max(images))
        if not (low >= 0 and high <= 1):  # false for NaN too
            raise EmbedderError(f"images from {low:g} to {high:g}: must be finite, in [0, 1]; divide 8-bit ones by 255")
        return np.asarray(images, np.float32)


def _settled(found: store.Store) -> store.Store:
    """StoreError for a store that is whole and holds no embedder."""
    kinds = {"theta": dict, "scaling": str, "damping": int | float, "fitted": int}
    missing = [name for name, kind in kinds.items() if not isinstance(found.attributes.get(name), kind)]
    missing += [name for name in ("right", "singular_values", "mean_score", "diagonal") if name not in found]
    if missing or not found.attributes["theta"].keys() <= {"include", "exclude"}:
        raise store.StoreError(f"{found.path}: holds no embedder, by its {missing[0] if missing else 'theta'}; make or "
                               "register it again")
    return found


def device() -> str:
    """What embeddings are computed on, for the record: they agree to round-off between devices, not to the bit."""
    first = jax.devices()[0]
    return f"{first.platform} {first.device_kind}"
