"""Ablations: the default is the exact SVD's, each variant is its own formula, and gains are counted against it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from nfk.evaluation.evaluate import evaluate_all
from nfk.fisher.statistics import FisherStatistics
from nfk.linalg.rows import DenseRows
from nfk.studies import ablations
from nfk.study_params import AblationsParams
from tests.studies.made_material import Noisy, material, silent, two_classes

PARAMS = AblationsParams(family="any", samples=(8, 40), ranks=(2, 6), dampings=(0.1,), kronecker_dampings=(0.1,),
                         noises=(1,))


@pytest.fixture
def here(monkeypatch):
    """Probes in this process."""
    monkeypatch.setattr(ablations, "evaluate_all", partial(evaluate_all, workers=1))


def given(rank=3):
    """Statistics of the model's own samples, one parameter ten times as lively as the others."""
    images, labels = two_classes()
    made = material(images, labels, rank, Noisy((6, 6, 1)))
    diagonal = np.full(36, 0.04)
    diagonal[0] = 4.0
    return made._replace(statistics=FisherStatistics(np.full(36, 0.3), diagonal, 40), damping=0.01)


@pytest.mark.parametrize("shape, rank, small", [((50, 30), 6, 1000), ((50, 30), 6, 10), ((12, 40), 12, 1000)])
def test_embeddings_are_those_of_the_exact_modes(monkeypatch, shape, rank, small):
    """By LAPACK and by block Krylov iteration; up to signs, which the probes do not see: the inner products agree."""
    monkeypatch.setattr(ablations, "_SMALL", small)
    rng = np.random.default_rng(1)
    train = (rng.normal(size=shape) @ np.diag(np.linspace(3, 0.1, shape[1]))).astype(np.float32)
    test = rng.normal(size=(9, shape[1])).astype(np.float32)
    found = ablations.embed([DenseRows(train, 16), DenseRows(test, 16)], rank)
    _, values, right = np.linalg.svd(train, full_matrices=False)
    kept = right[:rank].T
    np.testing.assert_allclose(found.splits[0] @ found.splits[1].T, train @ kept @ kept.T @ test.T, atol=2e-2)
    np.testing.assert_allclose(found.singular_values, values[:rank], rtol=1e-3)
    assert found.explained == pytest.approx((values[:rank] ** 2).sum() / (values**2).sum(), rel=1e-4)


def test_every_variant_is_its_formula(here):
    made = given()
    flat = made.images.examples("train").reshape(60, -1).astype(np.float64)  # the gradients
    centred, diagonal = flat - 0.3, made.statistics.diagonal
    whitened = centred / np.sqrt(diagonal + 0.01 * diagonal.mean())

    def explained(rows, rank=3):
        values = np.linalg.svd(rows, compute_uv=False) ** 2
        return values[:rank].sum() / values.sum()

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    samples = made.model.sample(None, 40).reshape(40, -1).astype(np.float64)
    few = samples[:8]
    expected = {
        "default": explained(whitened), "mean not subtracted": explained(whitened / centred * flat),
        "not whitened": explained(centred), "neither": explained(flat),
        "damping 1e-01": explained(centred / np.sqrt(diagonal + 0.1 * diagonal.mean())),
        "8 model samples": explained((flat - few.mean(0)) / np.sqrt(few.var(0) + 0.01 * few.var(0).mean())),
        "training images": explained((flat - flat.mean(0)) / np.sqrt(flat.var(0) + 0.01 * flat.var(0).mean())),
        "row-normalised": explained(unit(whitened)), "not whitened, row-normalised": explained(unit(centred)),
        "signed square root": explained(np.sign(whitened) * np.abs(whitened) ** 0.5),
        "one weight a layer": explained(centred), "each layer row-normalised": explained(unit(centred)),
        "rank 2": explained(whitened, 2), "rank 6": explained(whitened, 6),
    }
    found = ablations.run(made, PARAMS, silent)
    variants = found.numbers["variants"]
    assert {name: variants[name]["explained_variance"] for name in expected} == pytest.approx(expected, rel=2e-3)
    assert variants["network in bf16"]["explained_variance"] == pytest.approx(expected["default"], rel=0.02)
    assert {"Kronecker-factored 1e-01, row-normalised", "embedding whitened", "embedding unit", "vectors in bf16",
            "not whitened, signed square root, row-normalised"} < variants.keys()
    assert all("." not in name for name in variants)
    assert found.numbers["left_out"] == {}
    # what was found is judged against the default and the rivals
    default, best = variants["default"], found.numbers["best_on_validation"]
    assert default["gain"] == 0 and len(found.table.rows) == len(variants) + len(found.numbers["rivals"])
    assert best["validation_accuracy"] == max(one["validation_accuracy"] for one in variants.values())
    assert found.numbers["rivals"]["embed stage"]["dimension"] == 3 and "whole Fisher vector" in found.summary


def test_noise_in_the_potential_is_none_shared_or_each_image_s_own():
    """The potential is linear in the image, so noise does not move the gradient of theta's own scale: each gradient is
    the image and its noise. Shared noise then goes with the mean score; each image's own stays."""
    made = given()
    gradients = ablations.Gradients(made, PARAMS, silent)
    planned = {variant.name: variant for variant in ablations.variants(made, PARAMS, gradients)}

    def rows(name):
        return np.asarray(planned[name].rows()[0].block(0))

    none, shared, own = (rows(name) for name in ("noise none", "noise shared, 1", "noise of each image, 1"))
    np.testing.assert_allclose(none, shared, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(own, rows("noise of each image, 1"))  # the same in every pass
    assert np.linalg.norm(own - none) > 0.1 * np.linalg.norm(none)


def test_only_the_variants_asked_for_are_tried_beside_the_default(here):
    some = PARAMS.model_copy(update={"only": ("row-normalised", "damping 1e-01"), "ranks": (2,)})
    found = ablations.run(given(), some, silent).numbers["variants"]
    assert list(found) == ["default", "damping 1e-01", "row-normalised", "rank 2", "embedding whitened",
                           "embedding unit"]
    with pytest.raises(ValueError, match=r"only='row-normalized' is no variant of this network; there are default; "):
        ablations.run(given(), PARAMS.model_copy(update={"only": ("row-normalized",)}), silent)


def test_more_gradients_than_the_memory_are_refused():
    with pytest.raises(ValueError, match=r"gradients of 210 images of 36 numbers need 0.0 GiB, above memory_gib=1e-06"):
        ablations.run(given(), PARAMS.model_copy(update={"memory_gib": 1e-6}), silent)


def test_the_part_of_a_gap_that_is_closed():
    def probed(value):
        return {"logistic": {"accuracy": value, "standard_error": 0.03}}

    found = ablations._against({"default": probed(0.5), "whole Fisher vector": probed(0.9), "activations": probed(0.4),
                                "better": probed(0.6)}, "better")
    assert found["gain"] == pytest.approx(0.1) and found["gain_error"] == pytest.approx(0.03 * 2**0.5)
    assert found["closed"] == {"full": pytest.approx(0.25), "activations": None}
