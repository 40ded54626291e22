"""theta of params.yaml through the stages: factors in the chosen parameters, refused where the choice is another."""

from __future__ import annotations

import numpy as np
import pytest

from nfk import NeuralFisherKernel, store
from nfk.fisher.theta import ThetaError
from nfk.models import checkpoint
from nfk.stages import images
from nfk.stages.workspace import model_folder
from nfk.store import StoreError

FAMILIES = {"mlp": {"model": "mlp", "hidden": 6, "epochs": 1, "batch": 8}}


def test_the_stages_embed_by_the_chosen_parameters_alone(workspace):
    settings = workspace.params(FAMILIES, theta={"mlp": {"include": ["dense_[12]/.*"], "exclude": [".*bias"]}})
    workspace.run(settings, "mlp", "pretrain", "statistics", "svd", "embed")
    named = [entry["path"] for entry in store.read("statistics/mlp.zarr").attributes["parameters"]]
    assert named == ["dense_1/kernel", "dense_2/kernel"]
    data, model = images.load(settings), checkpoint.load(model_folder("mlp"))
    kernel = NeuralFisherKernel(model.log_density, model.params, rank=4, include=["dense_[12]/kernel"],
                                whitening="kronecker", unit_rows=True, damping=0.1)
    kernel.fit(data.examples("train"), model_samples=data.examples("train", 32))
    found = store.read("embeddings/mlp.zarr")["test"][:]
    assert found == pytest.approx(kernel.transform(data.examples("test")), rel=1e-3, abs=1e-3)

    other = workspace.params(FAMILIES, theta={"mlp": {"include": ["dense_2/kernel"]}})
    for stage in ("svd", "embed"):
        with pytest.raises(StoreError, match=r"statistics/mlp.zarr was made from theta \w+, but the theta here is"):
            workspace.run(other, "mlp", stage)
    same = workspace.params(FAMILIES, theta={"mlp": {"exclude": ["dense_0/.*", ".*/bias"]}})
    workspace.run(same, "mlp", "embed")
    assert np.array_equal(store.read("embeddings/mlp.zarr")["test"][:], found)
    none = workspace.params(FAMILIES, theta={"mlp": {"include": ["conv_0/.*"]}})
    with pytest.raises(ThetaError, match=r"include pattern 'conv_0/\.\*' matches none of 6"):
        workspace.run(none, "mlp", "statistics")
