"""The paper's claims on metrics made by hand, each in both directions."""

from __future__ import annotations

import dataclasses
import json

import pytest

from nfk.evaluation.claims import judge


def feature(accuracy, *, error=0.01, dimension=128, draws=(0.5, 0.5)):
    mean = sum(draws) / len(draws)
    return {"dimension": dimension, "logistic": {"accuracy": accuracy, "standard_error": error},
            "few_labels": {"100": {"mean": mean, "standard_deviation": 0.0, "draws": list(draws)}}}


def metrics(**accuracies):
    features = {"nfk-64": feature(0.88), "nfk-128": feature(0.90)}
    names = {"pca": "pca-128", "full": "full-fisher-vector", "activations": "activations-all",
             "activations_pca": "activations-all-pca-128", "latent": "latent-mean"}
    features |= {names[key]: feature(value, dimension=5000) for key, value in accuracies.items()}
    return {"features": features}


def only(claims, name):
    [claim] = [claim for claim in claims if claim.name == name]
    return claim


@pytest.mark.parametrize(("key", "name"), [
    ("pca", "above-pca"), ("activations", "above-activations"), ("activations_pca", "above-activations-pca"),
    ("latent", "above-latent-mean")])
def test_above_needs_more_than_two_standard_errors(key, name):
    clear, undecided, below = (
        only(judge(metrics(**{key: reference}), latent_mean="latent-mean"), name)
        for reference in (0.85, 0.88, 0.95))
    assert clear.holds and not undecided.holds and not below.holds
    assert clear.margin == pytest.approx(0.05)
    assert clear.standard_error == pytest.approx(0.01 * 2**0.5)
    assert clear.note.startswith("5.0 points above")
    assert clear.reason == ""
    assert undecided.note.endswith("within two standard errors: not decided")
    assert below.note.startswith("5.0 points below") and "not decided" not in below.note
    assert "has 5,000 numbers an image, nfk-128 has 128" in below.reason


def test_the_full_vector_is_recovered_where_the_gap_is_within_two_standard_errors():
    near, far, ahead = (only(judge(metrics(full=full)), "recovers-full-fisher-vector")
                        for full in (0.92, 0.95, 0.80))
    assert near.holds and ahead.holds and not far.holds
    assert near.note == "a gap below 2.8 points cannot be seen with this many test images"
    assert far.margin == pytest.approx(-0.05)
    assert far.reason == ("from k = 64 to 128 the probe still gains 2.0 points: "
                          "the components left out tell classes apart")


def few(embedding, penultimate):
    made = metrics()
    made["features"]["nfk-128"] = feature(0.9, draws=embedding)
    made["features"]["activations-dense2"] = feature(0.9, draws=penultimate)
    return only(judge(made, penultimate="activations-dense2"), "few-labels-above-penultimate")


def test_few_label_gain_is_judged_on_paired_draws():
    paired = few((0.70, 0.80, 0.90), (0.68, 0.779, 0.881))
    assert paired.holds  # a spread of 0.1 between draws, a steady gain of 0.02
    assert paired.margin == pytest.approx(0.02)
    assert paired.standard_error < 0.001
    assert not few((0.70, 0.80, 0.90), (0.90, 0.70, 0.74)).holds
    assert not few((0.70, 0.80, 0.90), (0.72, 0.82, 0.921)).holds


def spectra(trained, untrained, uncentred, first=(0.1, 0.97)):
    made = metrics()
    made["spectrum"] = {"components": [1, 100, 1000], "trained": [first[0], trained, 1.0],
                        "untrained": [0.05, untrained, 1.0], "trained_uncentred": [first[1], uncentred, 1.0],
                        "untrained_uncentred": []}
    return judge(made)


def test_training_must_raise_the_spectrum():
    assert only(spectra(0.82, 0.68, 0.99), "trained-above-untrained").holds
    lower = only(spectra(0.60, 0.68, 0.99), "trained-above-untrained")
    assert not lower.holds
    assert (lower.value, lower.reference, lower.standard_error) == (0.60, 0.68, None)
    assert lower.note == "explained variance of 100 components, centred"


def test_untrained_networks_are_judged_by_their_mean_and_their_range_is_told():
    made = metrics()
    made["spectrum"] = {"components": [1, 100], "trained": [0.1, 0.70], "untrained": [0.1, 0.68],
                        "untrained_draws": [[0.1, 0.60], [0.1, 0.76], [0.1, 0.68]]}
    claim = only(judge(made), "trained-above-untrained")
    assert claim.holds
    assert claim.note == ("explained variance of 100 components, centred; untrained: the mean of 3 initialisations, "
                          "60.0% to 76.0%, 2 of them below")


def test_spectra_without_100_components_are_compared_at_the_largest_below():
    made = metrics()
    made["spectrum"] = {"components": [1, 50, 200], "trained": [0.1, 0.9, 1.0], "untrained": [0.2, 0.5, 1.0]}
    [claim] = judge(made)
    assert claim.name == "trained-above-untrained"
    assert claim.value == 0.9


def test_ninety_nine_and_a_half_percent_is_shown_centred_and_uncentred():
    claims = spectra(0.82, 0.68, 0.996)
    centred, uncentred = (only(claims, f"explains-99.5-percent-{name}") for name in ("centred", "uncentred"))
    assert not centred.holds and uncentred.holds
    assert "the one component that holds 97.0 % otherwise; the first one left holds 10.0 %" in centred.reason
    assert uncentred.note.endswith("the first component alone holds 97.0 %")
    assert only(spectra(0.995, 0.68, 0.99), "explains-99.5-percent-centred").holds
    assert not only(spectra(0.995, 0.68, 0.99), "explains-99.5-percent-uncentred").holds


def test_no_reason_is_given_that_the_measurements_do_not_support():
    claims = spectra(0.82, 0.68, 0.85, first=(0.1, 0.12))
    assert only(claims, "explains-99.5-percent-centred").reason == ""


def test_claims_without_their_measurements_are_left_out():
    assert judge(metrics()) == []
    assert [claim.name for claim in judge(metrics(latent=0.5))] == []
    assert [claim.name for claim in judge(metrics(pca=0.5), penultimate="absent")] == ["above-pca"]


def test_claims_are_json():
    for claim in spectra(0.82, 0.68, 0.996):
        assert json.loads(json.dumps(dataclasses.asdict(claim)))["name"] == claim.name


def test_metrics_without_an_embedding_are_refused():
    with pytest.raises(ValueError, match="no features named nfk-K"):
        judge({"features": {"pixels": feature(0.9)}})
