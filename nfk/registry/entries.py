"""What the registry holds: versions in pairs, found by name and alias or number."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from nfk.nearest import did_you_mean
from nfk.registry.client import RegistryError
from nfk.section import NAME

if TYPE_CHECKING:
    from mlflow import MlflowClient

CANDIDATE, CHAMPION = "candidate", "champion"
FORMER, ROLLED_BACK, PAIR = "nfk.former_champion", "nfk.rolled_back", "nfk.embedder_version"
PROMOTION = "nfk.promotion"
"""Of each time somebody promotes it, a name and whether that is over"""
OUTDONE = "nfk.outdone_by"
"""by the better one of promotions at once"""
_PREFIX, _EMBEDDER, _EMBEDDINGS = "nfk-", "-embedder", "-embeddings"
_ALIAS = r"\w[\w-]*"
"""Of those that MLflow takes; no option of a command begins so"""


class Names(NamedTuple):
    embedder: str
    embeddings: str


def names(family: str) -> Names:
    """The registered models of a family."""
    return Names(f"{_PREFIX}{family}{_EMBEDDER}", f"{_PREFIX}{family}{_EMBEDDINGS}")


def names_of(name: str) -> Names:
    """The pair that a registered model of ours belongs to; RegistryError for another's."""
    for suffix in (_EMBEDDER, _EMBEDDINGS):
        if found := re.fullmatch(f"{_PREFIX}({NAME}){suffix}", name):
            return names(found[1])
    raise RegistryError(f"{name!r} is no registered model of this program: they are called "
                        f"{_PREFIX}FAMILY{_EMBEDDER} and {_PREFIX}FAMILY{_EMBEDDINGS}")


@dataclass(frozen=True)
class Entry:
    """One version of one registered model."""

    name: str
    version: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    run_id: str
    created: int
    """milliseconds since the epoch"""

    @property
    def metric(self) -> float | None:
        """What the gate compares; None for a version that was registered without one."""
        found = self.tags.get("gate.value")
        return None if found is None else float(found)

    @property
    def reference(self) -> str:
        return f"{self.name}/{self.version}"


def resolve(reference: str) -> tuple[str, str]:
    """NAME@ALIAS or NAME/VERSION as (name, alias or version); a bare NAME is its champion."""
    for separator in "@/":
        name, found, which = reference.partition(separator)
        if found and name and which:
            if separator == "/" and not _is_number(which):
                raise RegistryError(f"{reference!r}: version {which!r} must be a number; "
                                    f"give NAME/3 or NAME@{CHAMPION}")
            if not re.fullmatch(_ALIAS, which):
                raise RegistryError(f"{reference!r}: alias {which!r} must be letters, digits, - and _; give "
                                    f"NAME@{CHAMPION}")
            return name, which
    return reference, CHAMPION


def _is_number(which: str) -> bool:
    return which.isascii() and which.isdigit()


def find(client: MlflowClient, reference: str) -> Entry:
    """The entry `reference` names; RegistryError that lists those there are."""
    from mlflow.exceptions import MlflowException

    name, which = resolve(reference)
    names_of(name)
    known = {entry.version: entry for entry in entries(client, name)}
    if not known:
        there = sorted(model.name for model in client.search_registered_models(f"name LIKE '{_PREFIX}%'"))
        raise RegistryError(f"no registered model {name!r}{did_you_mean(name, there)}; there are "
                            f"{', '.join(there) or 'none'}; `nfk registry register FAMILY` makes one")
    if _is_number(which):
        if which not in known:
            raise RegistryError(f"{name} has no version {which}; there are {', '.join(sorted(known, key=int))}")
        return known[which]
    try:
        return known[str(client.get_model_version_by_alias(name, which).version)]
    except MlflowException:
        aliases = sorted({alias for entry in known.values() for alias in entry.aliases})
        raise RegistryError(f"{name} has no {which!r}; there are {', '.join(aliases) or 'no aliases'} and versions "
                            f"{', '.join(sorted(known, key=int))}") from None


def entries(client: MlflowClient, name: str | None = None) -> list[Entry]:
    """All versions of `name`, or of every registered model of ours, newest first within a model."""
    from mlflow.exceptions import MlflowException

    found: list[Entry] = []
    models = [name] if name else sorted(model.name for model in client.search_registered_models(
        f"name LIKE '{_PREFIX}%'", max_results=1000))
    for model in models:
        try:
            aliases = client.get_registered_model(model).aliases  # alias -> version, a number or a text of one
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            continue
        # an embedder's and its embeddings' names share a prefix: the filter must be exact
        versions = client.search_model_versions(f"name = '{model}'", max_results=1000)
        found += sorted((Entry(model, str(version.version), _aliases_of(aliases, str(version.version)),
                               dict(version.tags), version.run_id or "", version.creation_timestamp)
                         for version in versions), key=lambda entry: -int(entry.version))
    return found


def _aliases_of(aliases: Mapping[str, int | str], version: str) -> tuple[str, ...]:
    return tuple(sorted(alias for alias, of in aliases.items() if str(of) == version))


def differences(first: Mapping[str, str], second: Mapping[str, str]) -> Iterable[tuple[str, str, str]]:
    """The keys whose values differ, in order, with both values; an absent one is shown as a dash."""
    for key in sorted(first.keys() | second.keys()):
        if first.get(key) != second.get(key):
            yield key, first.get(key, "-"), second.get(key, "-")
