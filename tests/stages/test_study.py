"""A study through its stage: what it is given, what it writes, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nfk import params, store
from nfk.fisher.parameters import parameter_index
from nfk.fisher.statistics import FisherStatistics
from nfk.models import checkpoint
from nfk.stages import runner, study
from nfk.stages.workspace import model_folder
from nfk.store import StoreError

FAMILIES = {"mlp": {"model": "mlp", "hidden": 6, "epochs": 2, "batch": 8}}
ASKED = {"study": "eigenvalue_error", "family": "mlp", "examples": 40, "rank": 5, "passes": 4}


@pytest.fixture
def settings(workspace):
    found = workspace.params(FAMILIES, studies={"error": ASKED})
    workspace.run(found, "mlp", "pretrain", "statistics", "svd", "embed")
    return found


def test_eigenvalue_errors_are_those_against_a_float64_jacobian(settings):
    import jax
    import jax.numpy as jnp

    outcome = study.run(settings, "error")
    kept = json.loads(Path("studies/error/numbers.json").read_text())
    assert {"eigenvalue_error", "mlp"} == {kept["study"], kept["family"]}
    assert [path.as_posix() for path in outcome.figures] == ["studies/error/figures/errors.png"]
    table = Path("studies/error/table.md").read_text().splitlines()
    assert len(table) == 2 + 4 and "the paper's Algorithm 4" in table[-1]

    # the oracle: one gradient after the other, in float64
    model, data = checkpoint.load(model_folder("mlp")), store.read("data/digits.zarr")
    statistics = FisherStatistics.of_arrays(store.read("statistics/mlp.zarr"))
    whitening = statistics.whitening(parameter_index(model.params), damping=0.1, unit_rows=True)
    with jax.enable_x64(True):
        weights = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), model.params)
        images = np.asarray(data["images"][:40], np.float64) / 255
        rows = np.stack([np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.grad(
            lambda theta, x=x: model.log_density(theta, jnp.asarray(x), jax.random.key(0)))(weights))])
            for x in images])
        rows = np.asarray(whitening(jnp.asarray(rows)))
    values = np.linalg.eigvalsh(rows @ rows.T)[::-1]
    assert kept["at_a_kink"] == 0
    assert kept["explained_variance"] == pytest.approx(np.cumsum(values)[:5] / values.sum(), rel=1e-5)
    for way, most in {"stream64": 1e-11, "gram": 1e-5, "stream": 1e-5, "paper": 1e-3}.items():
        assert 0 < kept["ways"][way]["all"] < most, way
        assert len(kept["ways"][way]["relative"]) == 5


def test_what_no_longer_fits_the_network_is_refused(workspace, settings):
    workspace.run(workspace.params({"mlp": FAMILIES["mlp"] | {"epochs": 1}}), "mlp", "pretrain")
    with pytest.raises(StoreError, match=r"statistics/mlp.zarr was made from model"):
        study.run(settings, "error")


@pytest.mark.parametrize("asked, message", [
    ({"study": "eigenvalue_error", "family": "mpl"}, r"studies\.error\.family='mpl': no such family, did you mean "
                                                     r"'mlp'\?; there are mlp"),
    ({"study": "retrievel", "family": "mlp"}, r"studies\.error\.study='retrievel': unknown study, did you mean "
                                              r"'retrieval'\?; allowed: .*eigenvalue_error"),
    ({"family": "mlp"}, r"studies\.error\.study=None: unknown study; allowed: "),
    (ASKED | {"ranks": 3}, r"studies\.error\.ranks: unknown key, did you mean 'rank'\?"),
])
def test_a_wrong_study_is_refused_in_one_line(workspace, asked, message):
    with pytest.raises(params.ParamsError, match=message) as refused:
        workspace.params(FAMILIES, studies={"error": asked})
    assert "\n" not in str(refused.value)


def test_a_study_that_is_not_there_is_refused(workspace):
    with open("params.yaml", "w") as file:
        json.dump({"families": FAMILIES, "studies": {"error": ASKED}}, file)
    with pytest.raises(params.ParamsError, match=r"study 'eror' is not in params.yaml; there are error, did you mean"):
        runner.run("study", "eror")


def test_retrieval_compares_what_evaluate_compares(settings):
    asked = settings.model_copy(update={"studies": params.parse({
        "families": FAMILIES, "studies": {"near": {"study": "retrieval", "family": "mlp", "counts": [1, 3]}}}).studies})
    study.run(asked, "near")
    found = json.loads(Path("studies/near/numbers.json").read_text())["representations"]
    assert {"nfk-4", "pixels", "activations-all"} <= found.keys()
    assert found["pixels"]["dimension"] == 144
    assert all(0 < one["map"] < 1 and set(one["precision"]) == {"1", "3"} for one in found.values())
