"""Purity of the components' ends."""

from __future__ import annotations

import numpy as np
import pytest

from nfk.evaluation.features import truncate
from nfk.studies import components
from nfk.study_params import ComponentsParams
from tests.studies.made_material import material, silent, two_classes


def test_purity_by_hand():
    assert components.purity(np.array([[1, 1, 2, 1], [0, 3, 2, 3]])) == [0.75, 0.5]


def test_a_component_that_tells_classes_apart_has_pure_ends_and_chance_has_not():
    images, labels = two_classes()
    found = components.run(material(images, labels, rank=3), ComponentsParams(family="any", components=3, images=6),
                           silent)
    own = found.numbers["representations"]["nfk-3"]
    assert own["largest"][1] == own["smallest"][1] == 1  # the first component is the mean brightness' length
    assert own["mean"] == pytest.approx(np.mean(own["largest"] + own["smallest"]))
    # of 6 drawn from 60, 30 of each class, the commoner has 3.94 of 6 on average (hypergeometric)
    assert found.numbers["chance"] == pytest.approx(3.94 / 6, abs=0.015)
    assert found.table.rows[-1][0] == "chance" and set(found.figures) == {"nfk"}


def test_what_is_compared_is_the_widest_of_each_kind_whatever_ranks_evaluate_has():
    """evaluate.ranks need not hold svd.rank; and as many components of each are counted."""
    images, labels = two_classes()
    given = material(images, labels, rank=3)
    whole, pixels = given.representations()

    def narrower():
        return [truncate(whole, 1, name="nfk-1"), truncate(whole, 2, name="nfk-2"), truncate(pixels, 2, name="pca-2"),
                truncate(pixels, 1, name="pca-1"), pixels, truncate(pixels, 1, name="activations-all-pca-1")]

    found = components.run(given._replace(representations=narrower), ComponentsParams(family="any", images=6), silent)
    assert list(found.numbers["representations"]) == ["nfk-2", "pca-2", "activations-all-pca-1"]
    assert all(len(one["largest"]) == 1 for one in found.numbers["representations"].values())
    assert {len(row) for row in found.table.rows} == {len(found.table.columns)}
