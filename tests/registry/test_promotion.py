"""The gate and the way back, on a real registry in SQLite."""

from __future__ import annotations

from pathlib import Path

import pytest

from nfk import registry
from nfk.params import TrackingParams
from nfk.registry.entries import differences
from tests.faults.together import promotions

NAME = "nfk-gan-embedder"
PAIRED = "nfk-gan-embeddings"


@pytest.fixture(scope="module")
def connected(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        folder = tmp_path_factory.mktemp("registry")
        with registry.connect(TrackingParams(uri=f"sqlite:///{folder}/mlflow.db")) as client:
            yield client


@pytest.fixture
def client(connected):
    """An empty registry."""
    for model in connected.search_registered_models():
        connected.delete_registered_model(model.name)
    return connected


def add(client, *metrics: float, metric: str = "nfk-8.logistic.validation_accuracy") -> list[str]:
    """A pair of versions for each metric; the embedders' references."""
    found = []
    for name in (NAME, PAIRED):
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
    for value in metrics:
        tags = {"gate.metric": metric, "gate.value": repr(value)}
        made = client.create_model_version(NAME, source=str(Path("/none")), tags=tags)
        paired = {**tags, "nfk.embedder_version": made.version}
        client.create_model_version(PAIRED, source=str(Path("/none")), tags=paired)
        found.append(f"{NAME}/{made.version}")
    return found


def champions(client) -> list[str]:
    return [entry.reference for entry in registry.entries(client) if "champion" in entry.aliases]


def test_a_better_candidate_becomes_champion_with_its_embeddings_and_a_worse_one_does_not(client):
    first, worse, better = add(client, 0.90, 0.89, 0.91)
    registry.promote(client, first)
    with pytest.raises(registry.RegistryError, match=r"validation_accuracy=0\.8900, below 0\.9000 that the champion"):
        registry.promote(client, worse)
    assert champions(client) == [first, f"{PAIRED}/1"]
    champion, former = registry.promote(client, better)
    assert (champion.reference, former.reference) == (better, first)
    assert champions(client) == [better, f"{PAIRED}/3"]


def test_an_equal_candidate_passes_unless_a_gain_is_asked(client):
    first, equal = add(client, 0.90, 0.90)
    registry.promote(client, first)
    with pytest.raises(registry.RegistryError, match=r"registry\.gain=0\.01"):
        registry.promote(client, equal, gain=0.01)
    assert registry.promote(client, equal)[0].reference == equal


def test_rollback_restores_the_champion_before_and_stops_at_the_first(client):
    first, second, third = add(client, 0.90, 0.91, 0.92)
    for reference in (first, second, third):
        registry.promote(client, reference)
    for expected in (second, first):
        assert registry.rollback(client, NAME)[0].reference == expected
        assert champions(client)[0] == expected
    with pytest.raises(registry.RegistryError, match="is the first champion"):
        registry.rollback(client, NAME)
    with pytest.raises(registry.NotGoodEnough, match="was rolled back; it stays a candidate"):
        registry.promote(client, third)  # or tomorrow's refresh would undo what a person did today
    registry.promote(client, third, force=True)
    assert champions(client) == [third, f"{PAIRED}/3"]


def test_what_a_person_displaced_is_not_brought_back_by_the_next_promotion(client):
    first, second, third = add(client, 0.90, 0.95, 0.93)
    registry.promote(client, first)
    registry.promote(client, second)
    registry.promote(client, first, force=True)
    registry.promote(client, third)
    assert champions(client) == [third, f"{PAIRED}/3"]
    with pytest.raises(registry.NotGoodEnough, match="was rolled back"):
        registry.promote(client, second)


def test_embeddings_are_not_rolled_back_by_themselves_and_an_alias_is_understood(client):
    first, second = add(client, 0.90, 0.95)
    registry.promote(client, first)
    registry.promote(client, second)
    with pytest.raises(registry.RegistryError, match="nfk-gan-embeddings follows nfk-gan-embedder"):
        registry.rollback(client, PAIRED)
    assert registry.rollback(client, f"{NAME}@champion")[0].reference == first


class Interrupting:
    """A client that lets other promotions happen just before it moves an alias for the first time, and so on; or before
    another `call`."""

    def __init__(self, client, *others, call="set_registered_model_alias") -> None:
        self._client, self._others, self._call = client, list(others), call

    def __getattr__(self, name):
        if name == self._call and self._others:
            self._others.pop(0)()
        return getattr(self._client, name)


@pytest.mark.parametrize("slow, quick", [(0.91, 0.93), (0.93, 0.91)])
def test_of_two_promotions_at_once_the_better_stays(client, slow, quick):
    first, late, early = add(client, 0.90, slow, quick)
    registry.promote(client, first)
    best = late if slow > quick else early
    lost: list[str] = []

    def promoted(through, reference: str) -> None:
        try:
            registry.promote(through, reference)
        except registry.RegistryError as fault:
            assert f"{best}, at 0.9300 better than 0.9100, was promoted meanwhile" in str(fault)
            lost.append(reference)

    promoted(Interrupting(client, lambda: promoted(client, early)), late)
    assert lost == [early if best == late else late]
    assert champions(client) == [best, f"{PAIRED}/{best.rsplit('/')[-1]}"]


def test_the_best_stays_that_followed_one_promoted_meanwhile(client):
    first, slow, quick, best = add(client, 0.90, 0.92, 0.91, 0.93)
    registry.promote(client, first)

    def others() -> None:
        registry.promote(client, quick)
        registry.promote(client, best)

    with pytest.raises(registry.NotGoodEnough, match=f"{best}, at 0.9300 better than 0.9200"):
        registry.promote(Interrupting(client, others, call="set_model_version_tag"), slow)
    assert champions(client) == [best, f"{PAIRED}/4"]


def test_the_best_stays_that_is_promoted_while_another_gives_way(client):
    first, slow, quick, best = add(client, 0.90, 0.91, 0.92, 0.93)
    registry.promote(client, first)
    through = Interrupting(client, lambda: registry.promote(client, quick), lambda: None,
                           lambda: registry.promote(client, best))  # as it is about to crown the quick one
    with pytest.raises(registry.NotGoodEnough, match=f"{best}, at 0.9300 better than 0.9100"):
        registry.promote(through, slow)
    assert champions(client) == [best, f"{PAIRED}/4"]


def test_the_best_stays_that_began_before_the_champion_whom_another_follows(client):
    first, best, quick, late = add(client, 0.90, 0.93, 0.91, 0.92)
    for reference in (first, quick):
        registry.promote(client, reference)

    def goes_on() -> None:  # it began when the first was champion, and looks for rivals before the late one is one
        client.set_model_version_tag(NAME, "2", "nfk.former_champion", "1")
        client.set_model_version_tag(NAME, "2", "nfk.promotion", "its begun")
        client.set_registered_model_alias(NAME, "champion", "2")

    with pytest.raises(registry.NotGoodEnough, match=f"{best}, at 0.9300 better than 0.9200"):
        registry.promote(Interrupting(client, goes_on), late)
    assert champions(client) == [best, f"{PAIRED}/2"]


def test_who_was_outdone_or_passed_over_is_no_rival_later(client):
    first, worse, better, last = add(client, 0.90, 0.92, 0.93, 0.91)
    registry.promote(client, first)
    through = Interrupting(client, lambda: registry.promote(client, worse), call="set_model_version_tag")
    registry.promote(through, better)
    assert champions(client)[0] == better
    registry.rollback(client, NAME)
    registry.promote(client, last)  # worse than both, and it alone is promoted now
    assert champions(client) == [last, f"{PAIRED}/4"]
    registry.promote(client, worse)  # an own promotion brings it back
    assert champions(client) == [worse, f"{PAIRED}/2"]


def test_who_was_champion_before_one_brought_back_by_force_is_no_rival(client):
    first, second, third, late = add(client, 0.90, 0.92, 0.93, 0.91)
    for reference in (first, second, third):
        registry.promote(client, reference)
    registry.promote(client, first, force=True)
    registry.promote(client, late)
    assert champions(client) == [late, f"{PAIRED}/4"]


def test_who_was_displaced_to_and_fro_by_force_is_not_crowned_by_the_next(client):
    first, second, worse, new = add(client, 0.95, 0.96, 0.80, 0.82)
    for reference in (first, second):
        registry.promote(client, reference)
    for reference in (worse, second, worse):
        registry.promote(client, reference, force=True)
    assert registry.promote(client, new)[0].reference == new
    assert champions(client) == [new, f"{PAIRED}/4"]


def test_who_was_followed_by_a_champion_that_somebody_deleted_is_not_crowned_by_the_next(client):
    first, second, leaked, new = add(client, 0.80, 0.90, 0.95, 0.85)
    for reference in (first, second, leaked):
        registry.promote(client, reference)
    client.delete_model_version(NAME, "3")
    registry.promote(client, new)
    assert champions(client)[0] == new


def test_a_promotion_that_broke_off_is_passed_over_by_force(client):
    first, broken, chosen, new = add(client, 0.50, 0.90, 0.60, 0.65)
    registry.promote(client, first)
    client.set_model_version_tag(NAME, "2", "nfk.former_champion", "1")
    client.set_model_version_tag(NAME, "2", "nfk.promotion", "its begun")
    registry.promote(client, chosen, force=True)
    registry.promote(client, new)
    assert champions(client)[0] == new
    registry.promote(client, broken)  # the same command again brings it back
    assert champions(client)[0] == broken


def test_of_two_promotions_the_better_stays_wherever_they_meet(client):
    # between its two aliases; `python -m tests.faults.together` tries every call
    verdicts = list(promotions(client, first=8, every=100))
    assert len(verdicts) == 2
    assert [why for why in verdicts if why is not None] == []


def test_other_metrics_cannot_be_compared(client):
    first, = add(client, 0.90)
    other, = add(client, 0.99, metric="nfk-8.knn.validation_accuracy")
    registry.promote(client, first)
    with pytest.raises(registry.NotGoodEnough, match="cannot be compared; it stays a candidate"):
        registry.promote(client, other)
    assert champions(client) == [first, f"{PAIRED}/1"]
    registry.promote(client, other, force=True)
    assert champions(client) == [other, f"{PAIRED}/2"]


@pytest.mark.parametrize("reference, message", [
    ("nfk-gan-embeder", "is no registered model of this program"),
    ("nfk-vae-embedder", "did you mean 'nfk-gan-embedder'"),
    (f"{NAME}/7", "no version 7; there are 1"),
    (f"{NAME}/last", "version 'last' must be a number"),
    (f"{NAME}@best", "has no 'best'; there are no aliases and versions 1"),
])
def test_what_is_not_there_is_named_with_what_is(client, reference, message):
    add(client, 0.90)
    with pytest.raises(registry.RegistryError, match=message):
        registry.find(client, reference)


def test_embeddings_are_not_promoted_by_themselves(client):
    add(client, 0.90)
    with pytest.raises(registry.RegistryError, match="follows nfk-gan-embedder"):
        registry.promote(client, f"{PAIRED}/1")


def test_a_bare_name_is_the_champion_and_aliases_are_found(client):
    first, second = add(client, 0.90, 0.91)
    registry.promote(client, first)
    client.set_registered_model_alias(NAME, "candidate", second.rsplit("/")[-1])
    assert registry.find(client, NAME).reference == first
    assert registry.find(client, f"{NAME}@candidate").reference == second


def test_a_registry_that_is_away_is_one_line(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    message = r"^MLflow at http://127\.0\.0\.1:9: .*MLFLOW_TRACKING_URI"
    with (pytest.raises(registry.RegistryError, match=message) as fault,
          registry.connect(TrackingParams(uri="http://127.0.0.1:9")) as client):
        registry.entries(client)
    assert "\n" not in str(fault.value)


def test_differences_show_both_values():
    assert list(differences({"a": "1", "b": "2"}, {"b": "3", "c": "4"})) == [
        ("a", "1", "-"), ("b", "2", "3"), ("c", "-", "4")]
