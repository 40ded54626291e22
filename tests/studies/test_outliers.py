"""Outliers: scores against their definitions, and areas that must be 1."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from nfk.data.image_set import DataError
from nfk.evaluation.auroc import auroc
from nfk.linalg.rows import DenseRows
from nfk.studies import outliers
from nfk.study_params import OutliersParams
from tests.studies.made_material import material, silent, two_classes


def test_the_residual_is_that_of_an_explicit_projection():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(23, 40)).astype(np.float32)
    right = np.linalg.qr(rng.normal(size=(40, 7)))[0].astype(np.float32)
    found = outliers.projected(DenseRows(rows, 5), right, silent, "rows")
    np.testing.assert_allclose(found.residual, np.sum((rows - rows @ right @ right.T) ** 2, axis=1), rtol=1e-4)
    np.testing.assert_allclose(found.embedding, rows @ right, rtol=1e-4, atol=1e-5)
    inside = right @ rng.normal(size=(7, 5)).astype(np.float32)
    assert outliers.projected(DenseRows(inside.T.copy(), 5), right, silent, "rows").residual.max() < 1e-4


def scored(pixels):
    images, labels = two_classes()
    given = material(images, labels, rank=2)
    params = OutliersParams(family="any", neighbours=3)
    found = {name: (inside, outside) for name, inside, outside in outliers._scores(given, params, pixels, silent)}
    flat = {split: each.reshape(len(each), -1) / 255 for split, each in images.items()}
    return given, flat, pixels.reshape(len(pixels), -1) / 255, found


def test_scores_are_their_definitions():
    pixels = np.random.default_rng(3).integers(0, 256, (12, 6, 6, 1)).astype(np.uint8)
    given, flat, outside, found = scored(pixels)
    np.testing.assert_allclose(found["potential"][1], -outside.sum(axis=1), rtol=1e-5)  # theta is all ones
    known = flat["train"].sum(axis=1).mean()
    np.testing.assert_allclose(found["potential, either way"][1], np.abs(outside.sum(axis=1) - known), rtol=1e-4)
    embedded = {"train": flat["train"] @ given.modes.right, "outliers": outside @ given.modes.right}
    centred = embedded["outliers"] - embedded["train"].mean(axis=0)
    covariance = np.cov(embedded["train"].T, bias=True)
    np.testing.assert_allclose(found["nfk Mahalanobis"][1],
                               np.einsum("ni,ij,nj->n", centred, np.linalg.inv(covariance), centred), rtol=1e-3)
    distances = np.linalg.norm(embedded["outliers"][:, None] - embedded["train"][None], axis=2)
    np.testing.assert_allclose(found["nfk 3 nearest, euclidean"][1], np.sort(distances, axis=1)[:, 2], rtol=1e-3)
    # the pixels' principal components: those of centred rows
    mean = flat["train"].mean(axis=0)
    axes = np.linalg.svd(flat["train"] - mean, full_matrices=False)[2][:2]
    rest = (outside - mean) - (outside - mean) @ axes.T @ axes
    np.testing.assert_allclose(found["pixels residual"][1], np.sum(rest**2, axis=1), rtol=1e-3)
    assert not any(name.startswith("activations") for name in found)  # the network tells none


def test_images_unlike_all_others_are_told_by_every_distance():
    checks = np.zeros((10, 6, 6, 1), np.uint8)
    checks[:, ::2, ::2] = checks[:, 1::2, 1::2] = 255
    checks[np.arange(10), 0, np.arange(10) % 6] = 128
    *_, found = scored(checks)
    for name in ("nfk residual", "nfk residual, share of length", "pixels residual", "pixels 3 nearest, euclidean"):
        assert auroc(*found[name]).value == 1, name


def test_outliers_come_from_classes_spread_over_a_source(tmp_path):
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(9):
            value = 20 * number + 5 * (label == "b")
            Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(tmp_path / label / f"{number}.png")
    params = OutliersParams(family="any", source=str(tmp_path), classes=("b",), most=3)
    found = outliers.read(params, (6, 6, 1))
    assert found.pixels.shape == (3, 6, 6, 1)
    assert found.pixels[:, 0, 0, 0].tolist() == [5, 85, 165]
    assert "classes b" in found.source
    with pytest.raises(DataError, match="no class 'c'"):
        outliers.read(params.model_copy(update={"classes": ("c",)}), (6, 6, 1))


def test_the_findings_name_the_best_score_and_hold_all():
    images, labels = two_classes()
    found = outliers.run(material(images, labels, rank=2), OutliersParams(family="any", neighbours=3), silent)
    scores = found.numbers["scores"]
    best = max(scores, key=lambda name: scores[name]["value"])
    assert f"by {best}, first of {len(scores)}; 30 test images against 1,000" in found.summary
    assert all("." not in name for name in scores)
    assert len(found.table.rows) == len(scores) >= 10
