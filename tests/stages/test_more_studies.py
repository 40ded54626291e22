"""Attribution and inversion through their stage, on networks that `pretrain` made; and what params.yaml refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nfk import params
from nfk.stages import study

FAMILIES = {"mlp": {"model": "mlp", "hidden": 6, "epochs": 2, "batch": 8},
            "gan": {"model": "dcgan", "width": 2, "generator_width": 2, "latent": 3, "epochs": 1, "batch": 8}}
STAGES = ("pretrain", "statistics", "svd", "embed")


def answered(workspace, family, asked, **sections):
    """What a study of the family writes."""
    settings = workspace.params({family: FAMILIES[family]}, studies={"asked": {"family": family, **asked}}, **sections)
    workspace.run(settings, family, *STAGES)
    study.run(settings, "asked")
    return json.loads(Path("studies/asked/numbers.json").read_text())


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
