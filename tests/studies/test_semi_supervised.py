"""The study of few labels on a small problem: the same draws for all, choices on validation, resumable."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from nfk.evaluation.features import Features, Labels, standardise
from nfk.evaluation.few_labels import balanced_order, few_labels
from nfk.family_params import Lenet5Params
from nfk.params import ParamsError, parse
from nfk.studies import semi_supervised
from nfk.studies.few_label_methods.training import Training
from nfk.study_params import SemiSupervisedParams
from tests.studies.conftest import Memory

PARAMS = SemiSupervisedParams(
    family="gan", network=Lenet5Params(epochs=3, batch=32, learning_rate=3e-3), labels=(8, 40), draws=2,
    methods=("supervised", "mean_teacher"), supervised_rates=(1.0, 1e-6), mean_teacher_weights=(5.0,))


def test_methods_and_probes_see_the_same_draws(material, monkeypatch):
    seen, told, whole = [], [], Training.run
    monkeypatch.setattr(Training, "run", lambda self, variables, pool, rows, *rest, **more: (
        seen.append((self.method.name, variables, rows)), whole(self, variables, pool, rows, *rest, **more))[1])
    kept: dict = {}
    found = semi_supervised.run(material._replace(checkpoint=Memory(kept)), PARAMS,
                                lambda done, total, what: told.append((done, total)))
    methods = found.numbers["methods"]
    assert list(methods) == ["nfk", "pca", "supervised", "mean_teacher"]

    # runs: two settings and one more draw, one setting and one more draw; at both numbers of labels
    assert [name for name, _, _ in seen] == ["supervised"] * 6 + ["mean_teacher"] * 4
    labels = material.images.labels("train")
    expected = [set(balanced_order(labels, count, seed=3, draw=draw)) for count, draw in
                ((8, 0), (8, 0), (8, 1), (40, 0), (40, 0), (40, 1), (8, 0), (8, 1), (40, 0), (40, 1))]
    assert [set(np.unique(rows.labelled)) for _, _, rows in seen] == expected
    np.testing.assert_array_equal(seen[0][2].unlabelled, seen[6][2].unlabelled)
    jax.tree.map(np.testing.assert_array_equal, seen[0][1], seen[6][1])
    assert any(not np.array_equal(a, b) for a, b in zip(*(jax.tree.leaves(seen[at][1]) for at in (0, 2)), strict=True))
    assert told[-1] == (10 * 24, 10 * 24)

    # a rate of one millionth learns nothing: it is tried, and not chosen
    for count in ("8", "40"):
        tried = methods["supervised"][count]["tried"]
        assert [one["settings"]["rate"] for one in tried] == [1.0, 1e-6]
        assert methods["supervised"][count]["chosen"] == {"rate": 1.0}
        assert tried[0]["validation_accuracy"] == methods["supervised"][count]["validation"][0] > 0.4
        assert len(methods["mean_teacher"][count]["draws"]) == 2
    assert methods["supervised"]["40"]["mean"] > 0.6
    embedding = Features("nfk", **material.embeddings)
    oracle = few_labels(standardise(embedding), Labels(labels, material.images.labels("validation"),
                                                       material.images.labels("test")), (8, 40), draws=2,
                        strengths=(0.1, 10.0), seed=3)
    assert methods["nfk"]["40"]["draws"] == list(oracle[40].draws)
    assert methods["nfk"]["title"] == "NFK 6" and methods["pca"]["title"] == "PCA of pixels 6"

    # all is in the checkpoint: nothing is trained again
    seen.clear()
    again = semi_supervised.run(material._replace(checkpoint=Memory(kept)), PARAMS, lambda *_: None)
    assert again.numbers == found.numbers and not seen


def test_more_labels_than_there_are_is_refused(material):
    with pytest.raises(ValueError, match=r"labels=400 exceeds the 256 labelled training images; lower it in the study"):
        semi_supervised.run(material, PARAMS.model_copy(update={"labels": (400,)}), lambda *_: None)


@pytest.mark.parametrize("network, message", [
    ({"model": "lenet5", "epoch": 3}, r"studies\.few\.network\.epoch: unknown key, did you mean 'epochs'\?"),
    ({"model": "dcgan"},
     r"studies\.few\.network\.model='dcgan': no classifier that learns here; allowed: lenet5, wide_resnet$"),
    ({"epochs": 3},
     r"studies\.few\.network\.model=None: no classifier that learns here; allowed: lenet5, wide_resnet$"),
    ({"model": "lenet5", "epochs": 0}, r"studies\.few\.network\.epochs=0: must be greater than or equal to 1"),
    ({"model": "lenet5", "torch": {"path": "a.safetensors", "sha256": "0" * 64}},
     r"studies\.few\.network: .*torch has weights trained elsewhere"),
])
def test_a_wrong_network_is_refused_in_one_line(network, message):
    with pytest.raises(ParamsError, match=message) as refused:
        parse({"families": {"gan": {"model": "dcgan"}},
               "studies": {"few": {"study": "semi_supervised", "family": "gan", "network": network}}})
    assert "\n" not in str(refused.value)
