"""Attribution: who is left out, what that does, and that what a prediction rests on is found."""

from __future__ import annotations

import numpy as np
import pytest

from nfk.evaluation.features import Features, Labels, truncate
from nfk.studies import attribution
from nfk.study_params import AttributionParams
from tests.studies.made_material import material, silent, two_classes


def test_log_odds_by_hand():
    assert attribution.log_odds(np.log([0.2, 0.5, 0.3]), 1) == pytest.approx(0.0)
    assert attribution.log_odds(np.log([0.2, 0.7, 0.1]) + 5, 1) == pytest.approx(np.log(0.7 / 0.3))  # logits


def test_the_nearest_of_the_query_s_class_are_left_out_by_each_way():
    train = np.array([[1, 0], [3, 0.1], [0, 1], [2, 2], [9, 0]], float)
    labels = Labels(np.array([0, 0, 0, 0, 1]), np.array([0, 1]), np.array([1, 0]))
    tests = np.array([[5, 5], [1, 0]], float)
    features = Features("nfk-2", train, train[:2], tests)
    found = attribution.nearest_of_class(features, features, features, labels, np.array([1]), 2,
                                         np.random.default_rng(0))
    expected = {"NFK kernel": [1, 3], "NFK cosine": [0, 1], "activations": [0, 1], "pixels": [0, 2]}
    assert {way: found[way][0].tolist() for way in expected} == expected
    assert set(found["random"][0]) <= {0, 1, 2, 3}
    with pytest.raises(ValueError, match="removed=4 leaves nothing of a class of 4 training images"):
        attribution.nearest_of_class(features, features, features, labels, np.array([1]), 4, np.random.default_rng(0))


def test_those_removed_are_replaced_within_their_class():
    labels = np.array([0, 0, 0, 1, 1, 1, 0])
    found = attribution.replaced(np.arange(7), labels, np.array([0, 4]), seed=3)
    assert len(found) == 7 and not {0, 4} & set(found)
    assert (labels[found] == labels).all()
    assert (found[[1, 2, 3, 5, 6]] == [1, 2, 3, 5, 6]).all()


def test_a_probe_loses_most_without_the_cluster_that_it_rests_on():
    """Class 0 has two clusters far apart; each query lies in one. Without that cluster its odds fall, without as many
    at random they hardly do; and the refitted probe is the one fitted from nothing."""
    rng = np.random.default_rng(0)
    places = np.array([[4, 0, 0], [0, 4, 0], [-3, -3, 0]])

    def rows(count):
        return places[np.arange(count) % 3] + 0.3 * rng.normal(size=(count, 3))

    features = attribution.standardise(Features("nfk-3", rows(90), rows(30), rows(30)))
    labels = Labels(*((np.arange(count) % 3 == 2).astype(int) for count in (90, 30, 30)))
    queries = np.flatnonzero(labels.test == 0)[:10]
    removals = attribution.nearest_of_class(features, features, None, labels, queries, 30, rng)
    strength, without = attribution._probe(features, labels, (0.1, 1.0))
    found = attribution._drops(without, removals, queries, labels.test, lambda done, total: None)
    near = found["pixels"]
    assert near["above_random"] > 5 * near["above_random_error"] > 0
    assert found["random"]["above_random"] == 0
    assert near["above_random"] == pytest.approx(near["drop"] - found["random"]["drop"])

    from sklearn.linear_model import LogisticRegression
    kept = np.delete(np.arange(90), removals["pixels"][0])
    fresh = LogisticRegression(C=100 * strength, tol=1e-8, max_iter=5000).fit(features.train[kept], labels.train[kept])
    assert without(int(queries[0]), removals["pixels"][0]).after == pytest.approx(
        fresh.predict_log_proba(features.test[queries[:1]])[0], abs=2e-3)


def test_a_study_of_pixels_alone():
    images, labels = two_classes()
    params = AttributionParams(family="any", queries=12, removed=10, strengths=(1e-3, 1e-2))
    found = attribution.run(material(images, labels, rank=3), params, silent)
    assert found.numbers["probe_reads"] == "pixels" and "network" not in found.numbers
    assert set(found.numbers["probe"]) == {"NFK kernel", "NFK cosine", "pixels", "random"}
    assert len(found.numbers["probe"]["random"]["drops"]) == 12
    assert "NFK kernel" in found.summary and found.table.rows[0][:2] == ("probe", "NFK kernel")
    with pytest.raises(ValueError, match="retrained: the family's network tells no logits"):
        attribution.run(material(images, labels, rank=3), params.model_copy(update={"retrained": 2}), silent)


def test_the_embedding_is_the_widest_that_evaluate_compares():
    """evaluate.ranks need not hold svd.rank."""
    images, labels = two_classes()
    given = material(images, labels, rank=3)
    whole, pixels = given.representations()
    cut = [truncate(whole, rank, name=f"nfk-{rank}") for rank in (2, 1)]
    params = AttributionParams(family="any", queries=6, removed=10, strengths=(1e-2,))
    drops = {name: attribution.run(given._replace(representations=lambda kept=kept: [*kept, pixels]), params, silent)
             .numbers["probe"]["NFK cosine"]["drops"] for name, kept in (("both", cut), ("widest", cut[:1]),
                                                                        ("narrow", cut[1:]))}
    assert drops["both"] == drops["widest"] != drops["narrow"]
