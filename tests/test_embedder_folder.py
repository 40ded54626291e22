"""An embedder's folder, as it may come from outside, and the images it is given: vectors, or one line."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from nfk import embedder, store
from nfk.embedder import FACTORS, MODEL, Embedder, EmbedderError
from nfk.family_params import MlpParams
from nfk.models import checkpoint
from nfk.store import StoreError
from tests.service.small_embedder import write

SHAPE = (2, 2, 1)
IMAGES = np.random.default_rng(0).random((3, *SHAPE), np.float32)


def written(folder, **options):
    return write(folder, config=MlpParams(hidden=2), shape=SHAPE, rank=2, **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return written(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def loaded(made):
    return Embedder.load(made)


@pytest.mark.parametrize("scaling", ["none", "whitened", "unit"])
def test_vectors_are_products_of_scores_and_factor(tmp_path, scaling):
    found = Embedder.load(str(written(tmp_path, scaling=scaling)))
    rows = np.asarray(found.scores(IMAGES), np.float64) * found.statistics.weight(1e-3)
    expected = rows @ np.asarray(found.right, np.float64)
    if scaling == "unit":
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    if scaling == "whitened":
        expected *= np.sqrt(found.settings["fitted"]) / found.singular_values
    assert found.rank == 2
    for vectors in (found(IMAGES), found.at_once(IMAGES)):
        np.testing.assert_allclose(vectors, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_a_factor_that_stays_on_disk_gives_the_same(made, loaded):
    apart = Embedder.load(made, memory_gib=1e-7)
    assert not isinstance(apart.right, jax.Array)
    for vectors in (apart(IMAGES), apart.at_once(IMAGES)):
        np.testing.assert_allclose(vectors, loaded(IMAGES), rtol=1e-4, atol=1e-6)
    assert apart(IMAGES[:0]).shape == (0, 2)


@pytest.mark.parametrize(("images", "message"), [
    (np.zeros((3, 2, 3, 1), np.float32), r"images of shape \(3, 2, 3, 1\): must be \(n, 2, 2, 1\), those the network"),
    (np.zeros((3, 2, 2, 3), np.float32), r"images of shape \(3, 2, 2, 3\): must be \(n, 2, 2, 1\)"),
    (IMAGES[:0], "no images; give one at least"),
    (IMAGES * 255, r"images from \S+ to \S+: must be finite, in \[0, 1\]; divide 8-bit ones by 255"),
    (IMAGES - 1, r"must be finite, in \[0, 1\]"),
    (np.full_like(IMAGES, np.nan), r"images from nan to nan: must be finite"),
])
def test_images_it_was_not_made_for_are_refused(loaded, images, message):
    with pytest.raises(EmbedderError, match=message):
        loaded.checked(images)


def test_what_it_is_told_by(made):
    assert embedder.digest(made) == store.tree_digest(made)
    assert embedder.code_of(made) == ()
    assert embedder.device().startswith("cpu ")


def test_the_code_of_a_users_own_is_told_without_importing_it(tmp_path):
    folder = written(tmp_path)
    card = folder / MODEL / checkpoint.CARD
    card.write_text(json.dumps(json.loads(card.read_text()) | {"model": "no_such_module:build"}))
    assert embedder.code_of(folder) == ("no_such_module:build",)


@pytest.mark.parametrize(("change", "told"), [
    ({"theta": None}, "theta"), ({"theta": [1]}, "theta"), ({"theta": {"includes": None}}, "theta"),
    ({"scaling": 3}, "scaling"), ({"damping": None}, "damping"), ({"fitted": "many"}, "fitted"),
    ({"right": None}, "right"), ({"singular_values": None}, "singular_values"), ({"diagonal": None}, "diagonal"),
])
def test_a_whole_store_that_holds_no_embedder_is_refused_in_one_line(made, tmp_path, change, told):
    whole = store.read(made / FACTORS)
    with store.write(tmp_path / "changed" / FACTORS, inputs=whole.inputs) as writer:
        for name, array in whole.arrays.items():
            if name not in change:
                writer.put(name, np.asarray(array))
        writer.attributes.update({**whole.attributes, **{
            name: value for name, value in change.items() if name in whole.attributes}})
    for name in (checkpoint.CARD, checkpoint.WEIGHTS):
        (tmp_path / "changed" / MODEL).mkdir(exist_ok=True)
        (tmp_path / "changed" / MODEL / name).write_bytes((made / MODEL / name).read_bytes())
    with pytest.raises(StoreError, match=rf"embedder\.zarr: holds no embedder, by its {told}; make or") as refusal:
        Embedder.load(tmp_path / "changed")
    assert str(refusal.value).isprintable()
