"""Inversion: exact for a linear generator, and the ridge regression against its own formula."""

from __future__ import annotations

import numpy as np
import pytest

from nfk.studies import inversion
from nfk.study_params import InversionParams
from tests.studies.made_material import Linear, material, silent, two_classes

PARAMS = InversionParams(family="any", rank=4, generated=60, held_out=30, classifier="mlp", classifier_epochs=4)


@pytest.fixture
def rule(monkeypatch):
    """In the place of a trained classifier: whether the upper half is the brighter."""
    def brighter(images):
        return (images[:, :3].mean(axis=(1, 2, 3)) > images[:, 3:].mean(axis=(1, 2, 3))).astype(int)

    monkeypatch.setattr(inversion, "_classifier", lambda *given: (brighter, 1.0))


def test_a_linear_generator_is_inverted_exactly(rule):
    """Its images lie in the span of three directions and their mean: four modes of the images hold all of them, and a
    real image that the generator can draw is drawn again; one principal component too few is not enough."""
    images, labels = two_classes()
    model = Linear((6, 6, 1))
    latents = np.random.default_rng(5).normal(size=(30, 3)).astype(np.float32)
    images["test"] = np.round(255 * np.clip(model.generate(latents), 0, 1)).astype(np.uint8)
    given = material(images, labels, rank=4, model=model)
    found = inversion.run(given, PARAMS, silent)
    exact = found.numbers["reconstructions"]
    assert exact[inversion.NFK]["mse"] < 1e-5  # what 256 shades leave
    assert exact[inversion.NFK]["latent_error"] < 1e-6
    assert exact[inversion.NFK]["agreement"] == 1
    assert exact[inversion.MEAN]["mse"] > 100 * exact[inversion.NFK]["mse"]
    fewer = inversion.run(given, PARAMS.model_copy(update={"rank": 2}), silent).numbers["reconstructions"]
    assert fewer[inversion.PCA_GENERATOR]["mse"] > 50 * exact[inversion.PCA_GENERATOR]["mse"]
    test = given.images.examples("test")
    expected = inversion.projected(given.images.pixels("train"), test, PARAMS.rank, given.seed)
    assert exact[inversion.PCA_PIXELS]["mse"] == pytest.approx(((expected - test) ** 2).mean(), rel=1e-4)
    assert set(found.figures) == {"reconstructions"}


def test_pixels_are_projected_on_components_of_the_training_images_and_cut_to_their_range():
    """What the generator can draw is no part of it: its images' components would leave more."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(2, 36))
    known = np.round(np.clip(128 + 20 * rng.normal(size=(50, 2)) @ directions, 0, 255)).astype(np.uint8)
    unlike = (0.5 + 1.0 * rng.normal(size=(5, 2)) @ directions).reshape(-1, 6, 6, 1).astype(np.float32)
    found = inversion.projected(known.reshape(-1, 6, 6, 1), unlike, 2, seed=0)
    mean = known.mean(axis=0) / 255
    axes = np.linalg.svd(known / 255 - mean, full_matrices=False)[2][:2]
    back = mean + (unlike.reshape(5, 36) - mean) @ axes.T @ axes
    assert back.min() < 0 and back.max() > 1
    np.testing.assert_allclose(found.reshape(5, 36), np.clip(back, 0, 1), atol=1e-5)


def test_the_map_is_ridge_regression_with_the_best_strength_on_held_out_latents():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(80, 5)) * [9, 3, 1, 1, 1]
    latents = codes[:, :2] @ rng.normal(size=(2, 3)) + rng.normal(size=(80, 3))
    given = inversion.Codes(codes[:40], codes[40:70], codes[70:])
    strengths = (1e-4, 1e-2, 1.0, 1e3)
    found = inversion.fitted_map(given, latents[:40], latents[40:70], strengths)

    def solved(strength):
        mean, centred = codes[:40].mean(axis=0), codes[:40] - codes[:40].mean(axis=0)
        unit = (centred**2).sum() / 5
        slope = np.linalg.solve(centred.T @ centred + strength * unit * np.eye(5), centred.T @ latents[:40])
        return lambda rows: (rows - mean) @ slope + latents[:40].mean(axis=0)

    errors = {strength: np.mean((solved(strength)(codes[40:70]) - latents[40:70]) ** 2) for strength in strengths}
    best = min(errors, key=errors.get)
    assert (found.strength, found.error) == (best, pytest.approx(errors[best]))
    np.testing.assert_allclose(found.latents, solved(best)(codes[70:]), rtol=1e-4, atol=1e-5)
    assert found.at_end == (best in (1e-4, 1e3))


def test_a_network_without_a_generator_is_refused():
    class NoGenerator(Linear):
        generate = property(lambda self: (_ for _ in ()).throw(AttributeError))

    images, labels = two_classes()
    with pytest.raises(ValueError, match=r"NoGenerator has no generate\(latents\); name a family that has"):
        inversion.run(material(images, labels, 2, NoGenerator((6, 6, 1))), PARAMS, silent)
