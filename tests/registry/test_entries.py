"""Names, aliases and versions, and what a registry answers; a stand-in for MLflow's client, with its own errors."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, RESOURCE_DOES_NOT_EXIST

from nfk.registry import RegistryError
from nfk.registry.entries import Entry, differences, entries, find, names, names_of, resolve

NAME, PAIRED = "nfk-gan-embedder", "nfk-gan-embeddings"


class Client:
    """Holds versions and aliases by name."""

    def __init__(self) -> None:
        self.versions = {NAME: ["1", "10", "2"], PAIRED: ["1"]}
        self.aliases = {NAME: {"champion": "2", "candidate": 10, "newest": 10}, PAIRED: {}}
        self.fault: int | None = None

    def search_registered_models(self, filter_string, max_results=100):
        assert filter_string == "name LIKE 'nfk-%'"
        return [SimpleNamespace(name=name) for name in self.versions]

    def get_registered_model(self, name):
        if name not in self.versions or self.fault is not None:
            raise MlflowException("fault", error_code=self.fault or RESOURCE_DOES_NOT_EXIST)
        return SimpleNamespace(aliases=self.aliases[name])

    def search_model_versions(self, filter_string, max_results):
        name = filter_string.removeprefix("name = '").removesuffix("'")
        return [SimpleNamespace(version=version, tags={"gate.value": "0.5"} if version == "2" else {}, run_id=None,
                                creation_timestamp=int(version)) for version in self.versions[name]]

    def get_model_version_by_alias(self, name, alias):
        if alias not in self.aliases[name]:
            raise MlflowException("no such alias", error_code=RESOURCE_DOES_NOT_EXIST)
        return SimpleNamespace(version=self.aliases[name][alias])


@pytest.mark.parametrize(("reference", "found"), [
    (NAME, (NAME, "champion")), (f"{NAME}@candidate", (NAME, "candidate")), (f"{NAME}/12", (NAME, "12")),
    (f"{NAME}@two_words-1", (NAME, "two_words-1")), (f"{NAME}@", (f"{NAME}@", "champion")),
    (f"{NAME}/", (f"{NAME}/", "champion")), ("@champion", ("@champion", "champion")),
])
def test_a_reference_is_a_name_and_an_alias_or_a_number(reference, found):
    assert resolve(reference) == found


@pytest.mark.parametrize(("reference", "message"), [
    (f"{NAME}/last", "version 'last' must be a number; give NAME/3 or NAME@champion"),
    (f"{NAME}/٣", "version '٣' must be a number"),
    (f"{NAME}/-1", "version '-1' must be a number"),
    (f"{NAME}@../x", "alias '../x' must be letters, digits, - and _; give NAME@champion"),
    (f"{NAME}@--force", "alias '--force' must be letters"),
    (f"{NAME}@a b", "alias 'a b' must be letters"),
    (f"{NAME}@a\n", r"alias 'a\n' must be letters"),
])
def test_another_is_refused(reference, message):
    with pytest.raises(RegistryError) as refusal:
        resolve(reference)
    assert message in str(refusal.value) and str(refusal.value).isprintable()


def test_a_pair_belongs_to_a_family():
    assert names("gan") == names_of(NAME) == names_of(PAIRED) == (NAME, PAIRED)
    for other in ("gan", "nfk-embedder", "nfk-Gan-embedder", f"x{NAME}", f"{NAME}s", "nfk-gan-embedder\n"):
        with pytest.raises(RegistryError, match="is no registered model of this program"):
            names_of(other)


def test_versions_are_newest_first_with_their_aliases():
    assert [entry.reference for entry in entries(Client())] == [f"{NAME}/10", f"{NAME}/2", f"{NAME}/1", f"{PAIRED}/1"]
    newest, second, first = entries(Client(), NAME)
    assert (newest.aliases, second.aliases, first.aliases) == (("candidate", "newest"), ("champion",), ())
    assert (second.metric, first.metric, first.run_id) == (0.5, None, "")
    assert entries(Client(), "nfk-vae-embedder") == []


def test_a_registry_that_fails_is_not_an_empty_one():
    client = Client()
    client.fault = INTERNAL_ERROR
    with pytest.raises(MlflowException):
        entries(client)


@pytest.mark.parametrize(("reference", "version"), [(NAME, "2"), (f"{NAME}@newest", "10"), (f"{NAME}/1", "1")])
def test_one_is_found(reference, version):
    assert find(Client(), reference).version == version


@pytest.mark.parametrize(("reference", "message"), [
    ("nfk-gam-embedder", "no registered model 'nfk-gam-embedder', did you mean 'nfk-gan-embedder'?; there are "
                         "nfk-gan-embedder, nfk-gan-embeddings; `nfk registry register FAMILY` makes one"),
    (f"{NAME}/7", "nfk-gan-embedder has no version 7; there are 1, 2, 10"),
    (f"{NAME}@best", "nfk-gan-embedder has no 'best'; there are candidate, champion, newest and versions 1, 2, 10"),
    (PAIRED, "nfk-gan-embeddings has no 'champion'; there are no aliases and versions 1"),
])
def test_what_is_not_there_is_told_with_what_is(reference, message):
    with pytest.raises(RegistryError) as refusal:
        find(Client(), reference)
    assert str(refusal.value) == message


def test_an_empty_registry_says_so():
    client = Client()
    client.versions = {}
    with pytest.raises(RegistryError, match="there are none; `nfk registry register FAMILY` makes one"):
        find(client, NAME)


def test_differences_show_both_values():
    assert list(differences({"a": "1", "b": "2"}, {"b": "3", "c": "4"})) == [
        ("a", "1", "-"), ("b", "2", "3"), ("c", "-", "4")]
    assert list(differences({"a": "1"}, {"a": "1"})) == []


def test_an_entry_is_called_by_name_and_version():
    assert Entry(NAME, "3", (), {}, "", 0).reference == f"{NAME}/3"
