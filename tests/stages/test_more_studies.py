"""The studies of the embedding's variants, outliers, attribution and inversion through their stage, on networks that
`pretrain` made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nfk import params, store
from nfk.stages import study

FAMILIES = {"mlp": {"model": "mlp", "hidden": 6, "epochs": 2, "batch": 8},
            "vae": {"model": "conv_vae", "width": 2, "hidden": 4, "latent": 2, "epochs": 1, "batch": 8},
            "gan": {"model": "dcgan", "width": 2, "generator_width": 2, "latent": 3, "epochs": 1, "batch": 8}}
STAGES = ("pretrain", "statistics", "svd", "embed")


def answered(workspace, family, asked, **sections):
    """What a study of the family writes."""
    settings = workspace.params({family: FAMILIES[family]}, studies={"asked": {"family": family, **asked}}, **sections)
    workspace.run(settings, family, *STAGES)
    study.run(settings, "asked")
    return json.loads(Path("studies/asked/numbers.json").read_text())


def test_ablations_of_a_vae(workspace):
    found = answered(workspace, "vae", {
        "study": "ablations", "samples": [8, 32], "ranks": [2, 6], "dampings": [0.1], "kronecker_dampings": [0.1],
        "noises": [1]})
    variants, rivals = found["variants"], found["rivals"]
    assert all("." not in name for name in variants)
    assert {"noise none", "noise shared, 1", "noise of each image, 1", "32 model samples", "rank 6",
            "Kronecker-factored 1e-01, row-normalised", "embedding unit"} <= variants.keys()
    explained = {name: one["explained_variance"] for name, one in variants.items()}
    # the default is what the pipeline wrote, and so is the potential without noise; with noise it is another
    written = float(store.read("factors/vae.zarr")["explained_variance"][3])
    assert explained["default"] == pytest.approx(written, rel=1e-3)
    assert explained["network in bf16"] == pytest.approx(written, rel=0.05)
    assert abs(explained["noise shared, 1"] - explained["noise none"]) > 1e-4
    assert explained["rank 2"] < explained["default"] < explained["rank 6"]
    assert variants["default"]["accuracy"] == pytest.approx(rivals["embed stage"]["accuracy"], abs=0.1)
    assert variants["default"]["gain"] == 0
    assert found["best_on_validation"]["validation_accuracy"] == max(
        one["validation_accuracy"] for one in variants.values())
    assert {"whole Fisher vector", "activations", "pixels"} <= rivals.keys() and found["left_out"] == {}


def test_ablations_refuse_more_gradients_than_their_memory(workspace):
    with pytest.raises(ValueError, match=r"gradients of .* need 0.0 GiB, above memory_gib=1e-06 of this study"):
        answered(workspace, "mlp", {"study": "ablations", "memory_gib": 1e-6, "samples": [8]})


def test_attribution_trains_a_classifier_again(workspace):
    found = answered(workspace, "mlp", {"study": "attribution", "queries": 3, "removed": 5, "retrained": 2,
                                        "strengths": [0.01]})
    assert found["retrained"] == 2 and len(found["network"]["NFK cosine"]["drops"]) == 2
    # the network does change where images are left out
    assert all(drop != 0 for drop in found["network"]["random"]["drops"])
    assert found["network"]["pixels"]["drops"] != found["network"]["random"]["drops"]


def test_a_gan_is_inverted(workspace):
    found = answered(workspace, "gan", {"study": "inversion", "rank": 3, "generated": 24, "held_out": 8,
                                        "classifier": "mlp", "classifier_epochs": 1})
    kept = found["reconstructions"]
    assert found["latents"] == 3 and found["rank"] == 3
    assert all(0 < one["mse"] < 1 for one in kept.values())
    # random images of two classes: the mean image is the best guess, and nothing drawn is it
    assert kept["mean image"]["mse"] < min(one["mse"] for name, one in kept.items() if "generat" in name)
    assert Path("studies/asked/figures/reconstructions.png").stat().st_size > 1000


@pytest.mark.parametrize("asked, message", [
    ({"study": "outliers", "most": 1}, r"studies\.asked\.most=1"),
    ({"study": "ablations", "ranks": []}, r"studies\.asked\.ranks"),
])
def test_wrong_parameters_are_refused(workspace, asked, message):
    with pytest.raises(params.ParamsError, match=message):
        workspace.params(FAMILIES, studies={"asked": {"family": "gan", **asked}})


def test_the_experiments_of_these_studies_read_numbers_that_are_there():
    from flows.experiment_spec import load
    names = [load(name) for name in ("ablations", "retrieval", "outliers", "attribution", "figure4", "figure6")]
    assert all(set(one.sizes) == {"cpu", "paper"} and len(one.sizes["cpu"].seeds) > 1 for one in names)
    assert all(np.isfinite(len(one.rows)) for one in names)
